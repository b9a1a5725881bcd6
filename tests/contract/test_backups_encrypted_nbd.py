"""Encrypted backups in windows of an NBD export: the suite of those in folders."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract import test_backups_encrypted
from tests.contract.driver_rigs import QemuRig, rig_of
from tests.contract.test_backups_encrypted import fewer as fewer
from tests.contract.test_backups_encrypted import saved as saved


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[QemuRig]:
    for rig in rig_of("qemu-nbd", tmp_path):
        assert isinstance(rig, QemuRig)
        yield rig


test_a_running_vm_is_backed_up_recovered_and_merged_encrypted = (
    test_backups_encrypted.test_a_running_vm_is_backed_up_recovered_and_merged_encrypted
)
test_a_key_that_is_not_its_own_opens_nothing = test_backups_encrypted.test_a_key_that_is_not_its_own_opens_nothing
test_a_chain_of_eight_is_opened_at_once = test_backups_encrypted.test_a_chain_of_eight_is_opened_at_once
