"""A VM that is recovered: its backup, what is asked for, and what its node sees."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from libs.common.messages import VmId
from proto.backups import Definition
from proto.devices import VmPhase
from proto.io import (
    DevicesEvent,
    DisksSettled,
    Known,
    NoteHardware,
    RecoverDisks,
    RecoveredDisk,
    RecoveryRequested,
    RevokeDevices,
)
from proto.machine import DiskFormat, Layer, Origin
from services.io.model import DEVICES
from services.io.states import Made
from tests.model.compute_story import SHAPE
from tests.model.io_story import GRANT, GRANTED, REVOKED, SIZES, A
from tests.model.snapshot_story import sees
from tests.model.test_io_changes import after

X = VmId("x")
ORIGIN = Origin(vm="a", backup="b1-2", pool="safe", pool_id="p9")
FULL = Origin(vm="a", backup="b1-1", pool="safe", pool_id="p9")
SAVED = tuple(
    RecoveredDisk(
        disk=name, size_mib=size_mib,
        layers=(
            Layer(file=f"a-{name}.b1-2.qcow2", format=DiskFormat.QCOW2, leaving=True, origin=ORIGIN),
            Layer(file=f"a-{name}.b1-1.qcow2", format=DiskFormat.QCOW2, leaving=True, origin=FULL),
        ),
    )
    for name, size_mib in (("disk0", 64), ("disk1", 10))
)  # fmt: skip
DEFINITION = Definition(shape=SHAPE, disks=GRANT.disks, nics=GRANT.nics)
RESTS = Known(phase=VmPhase.STOPPED, sizes_mib=SIZES)
IN_PLACE = RecoverDisks(vm="a", source="a", recovery="r1-9", disks=SAVED, definition=DEFINITION, known=RESTS)
ANEW = replace(IN_PLACE, vm="x")
ASKED = RecoveryRequested(
    vm=A, target=X, recovery="r1-9", backup="b1-2", taken_us=5, disks=SAVED, definition=DEFINITION, node="n2", pool="fast",
    isolated=True,
)  # fmt: skip
STOPPED = (GRANTED, DisksSettled(vm=A, generation=1), REVOKED)
"""it has run with its disks"""
REGRANT = replace(GRANT, generation=2, pool_ids={"default": "p1", "safe": "p9"})
REVOKE = RevokeDevices(vm="a", generation=2)


def recovered(*given: DevicesEvent, command: RecoverDisks = IN_PLACE) -> tuple[DevicesEvent, ...]:
    return (*given, *after(*given, command=command))


def running(*given: DevicesEvent, grant: Any = REGRANT) -> tuple[DevicesEvent, ...]:
    """Started once more, and seen."""
    granted = (*given, *after(*given, command=grant))
    return (*granted, DisksSettled(vm=VmId(grant.vm), generation=grant.generation))


def made(events: tuple[DevicesEvent, ...]) -> Made:
    state = DEVICES.fold(events)
    assert isinstance(state, Made)
    return state


def standing_still(events: tuple[DevicesEvent, ...]) -> NoteHardware:
    """Its node sees that it runs, all of it on the backup."""
    state = DEVICES.fold(events)
    note = sees(state, generation=2)
    chains = tuple((d.slot, (d.file, *(one.file for one in d.layers))) for d in made(events).disks if d.layers)
    return replace(note, hardware=replace(note.hardware, chains=chains))
