"""The guards of recoveries, each of which is taken away to see that it is missed (ha_mutants.py: MUTANTS)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from proto.hardware import chain, standing
from services.io import recovering
from services.io.backups import recovering as choosing
from services.io.backups import removing
from services.node.drivers.simpool import SimPool

type Patch = pytest.MonkeyPatch


def what_is_held_is_deleted(patch: Patch) -> None:
    patch.setattr(removing, "holder", lambda backups, holds, of: None)
    patch.setattr(removing, "_check_restored", lambda command: None)


def what_is_damaged_is_recovered_from(patch: Patch) -> None:
    patch.setattr(choosing, "_check_sound", lambda vm, one, state: None)


def home_a_layer_too_early(patch: Patch) -> None:
    """The oldest layer is not waited for."""
    real = recovering.note

    def note(command: Any, state: Any) -> Sequence[Any]:
        seen = dict(command.hardware.chains)
        stands = [disk for disk in state.disks if standing(disk)]
        if (now := state.recovering) and all(len(seen.get(disk.slot, (0,) * 9)) <= len(chain(disk)) + 1 for disk in stands):
            return recovering._home(state, now)
        return real(command, state)

    patch.setattr(recovering, "note", note)


def a_recovered_disk_is_made_anew(patch: Patch) -> None:
    """At each start, whatever was written to it."""
    real = SimPool.find

    def find(self: SimPool, spec: Any) -> None:
        for disk in filter(standing, spec.disks):
            self.disks.pop(self.keys(disk)[0], None)
        real(self, spec)

    patch.setattr(SimPool, "find", find)
