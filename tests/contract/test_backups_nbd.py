"""Backups in windows of an NBD export, and VMs that run on them: the suites of those in folders, and what is only here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract import test_backups_qemu, test_driver_backups, test_driver_recovery
from tests.contract.driver_rigs import QemuRig, rig_of
from tests.contract.test_driver_backups import saved as saved
from tests.contract.test_driver_recovery import driver as driver


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[QemuRig]:
    for rig in rig_of("qemu-nbd", tmp_path):
        assert isinstance(rig, QemuRig)
        yield rig


# --- the suites of folders ------------------------------------------------------------------------------------------------

test_all_disks_are_backed_up_and_then_what_was_written_since = (
    test_driver_backups.test_all_disks_are_backed_up_and_then_what_was_written_since
)
test_one_given_up_leaves_nothing_and_loses_nothing = test_driver_backups.test_one_given_up_leaves_nothing_and_loses_nothing
test_what_cannot_go_beside_one_ends_it_and_it_says_why = test_driver_backups.test_what_cannot_go_beside_one_ends_it_and_it_says_why
test_those_that_stand_on_a_removed_one_hold_what_they_held = (
    test_driver_backups.test_those_that_stand_on_a_removed_one_hold_what_they_held
)
test_damage_is_found_and_is_not_merged = test_driver_backups.test_damage_is_found_and_is_not_merged
test_a_removal_cut_short_anywhere_leaves_all_others_whole = (
    test_backups_qemu.test_a_removal_cut_short_anywhere_leaves_all_others_whole
)
test_one_at_rest_whose_qemu_is_killed_leaves_nothing_and_the_vm_starts = (
    test_backups_qemu.test_one_at_rest_whose_qemu_is_killed_leaves_nothing_and_the_vm_starts
)
test_a_guest_runs_on_a_backup_and_its_data_comes_home = test_driver_recovery.test_a_guest_runs_on_a_backup_and_its_data_comes_home
test_two_are_recovered_from_one_backup_at_once = test_driver_recovery.test_two_are_recovered_from_one_backup_at_once
test_a_backup_that_is_not_whole_is_refused_by_its_name = (
    test_driver_recovery.test_a_backup_that_is_not_whole_is_refused_by_its_name
)
test_a_process_that_dies_while_it_copies_is_started_again_and_the_copy_goes_on = (
    test_driver_recovery.test_a_process_that_dies_while_it_copies_is_started_again_and_the_copy_goes_on
)
test_the_next_agent_sees_to_a_copy_that_goes_on = test_driver_recovery.test_the_next_agent_sees_to_a_copy_that_goes_on
test_what_stands_on_a_backup_comes_home_at_rest = test_driver_recovery.test_what_stands_on_a_backup_comes_home_at_rest
