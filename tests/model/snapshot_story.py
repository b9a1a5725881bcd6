"""A VM whose snapshots are taken, and what its node sees of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from libs.common.host.service import Order
from proto.hardware import Hardware, Misfit, Took, chain
from proto.io import (
    DevicesEvent,
    DisksSettled,
    NoteHardware,
)
from proto.machine import Disk
from proto.snapshots import TakeSnapshot
from services.io.model import DEVICES
from services.io.react import orders
from services.io.states import Devices, Granted, Made
from tests.model.io_story import GRANTED, A
from tests.model.test_io_changes import RUNS, after

RUNNING = (GRANTED, DisksSettled(vm=A, generation=1))
TAKE = TakeSnapshot(vm="a", name="s1", known=RUNS)
FIRST = ("a-disk0.qcow2", "a-disk1.qcow2")


def sees(state: Devices, *, took: Took | None = None, misfits: tuple[Misfit, ...] = (), generation: int = 1) -> NoteHardware:
    """As one would be seen that is all that it is wanted to be."""
    assert isinstance(state, Granted)
    chains = tuple((d.slot, chain(d)) for d in state.disks if d.layers)
    slots = (*(d.slot for d in state.disks), *(n.slot for n in state.nics))
    has = Hardware(
        vcpus=1, plugged_vcpus=1, memory_mib=256, slots=slots, chains=chains, took=took, misfits=misfits,
        disk_mib=tuple((d.slot, d.size_mib) for d in state.disks),
    )  # fmt: skip
    return NoteHardware(vm="a", generation=generation, hardware=has)


def told(*given: DevicesEvent, took: Took | None = None) -> tuple[DevicesEvent, ...]:
    return after(*given, command=sees(DEVICES.fold(given), took=took))


def story(*commands: Any, begin: tuple[DevicesEvent, ...] = RUNNING) -> tuple[DevicesEvent, ...]:
    """Each is decided, and what is wanted of a running VM is seen."""
    events = begin
    for command in commands:
        events += after(*events, command=command)
        if isinstance(state := DEVICES.fold(events), Granted):
            events += after(*events, command=sees(state))
    return events


def ordered(stream: str, state: Devices, version: int) -> Sequence[Order]:
    found = orders(stream, state, version)
    assert isinstance(found, Sequence)
    return found


def snapshots(events: Sequence[DevicesEvent]) -> dict[str, str]:
    state = DEVICES.fold(events)
    assert isinstance(state, Made)
    return {s.name: s.state.value for s in state.snapshots}


def disks(events: Sequence[DevicesEvent]) -> tuple[Disk, ...]:
    state = DEVICES.fold(events)
    assert isinstance(state, Made)
    return state.disks
