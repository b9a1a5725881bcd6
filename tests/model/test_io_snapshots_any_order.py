"""Snapshots taken, gone back to and deleted in any order, starts and failures among them: what one holds does not change."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from libs.common.decider import Refused
from proto.hardware import Consistency, Hardware, Took
from proto.io import (
    AttachDisk,
    DetachDisk,
    DevicesChanged,
    DevicesEvent,
    DisksSettled,
    ReportDisksRemoved,
    RevokeDevices,
    SettleDisks,
    SnapshotRequested,
    SnapshotTaken,
)
from proto.machine import LAYERS_MAX, Disk, DiskFormat, DiskWish, Freeze, Layer
from proto.node import OrderDisksMerge, OrderDisksRemoval
from proto.snapshots import DeleteSnapshot, ReportDisksMerged, RevertSnapshot, TakeSnapshot
from services.io.model import DEVICES
from services.io.states import Devices, Granted, Made, SnapshotState
from tests.model.io_story import GRANT, GRANTED, N1, A
from tests.model.snapshot_story import TAKE, ordered, sees
from tests.model.test_io_changes import RESTS, RUNS, after

STEPS: tuple[str, ...] = ("take", "strict", "rest", "revert", "delete", "attach", "detach", "drop")


STEPS += ("start", "stop", "see", "fail", "look", "merge", "remove")


class Files:
    """What an agent would have: which files are there, what each stands on, and what is in each as a list of words."""

    def __init__(self) -> None:
        self.holds: dict[str, tuple[int, ...]] = {}
        self.stands: dict[str, str] = {}
        self.words = 0

    def make(self, disk: Disk) -> None:
        if disk.file not in self.holds:
            assert not disk.made, f"{disk.file} is lost"
            below = disk.layers[0].file if disk.layers else ""
            self.stands[disk.file], self.holds[disk.file] = below, self.holds[below] if below else ()

    def write(self, disk: Disk) -> None:
        assert disk.file not in self.stands.values(), f"{disk.file} is a layer, and is written"
        self.words += 1
        self.holds[disk.file] = (*self.holds[disk.file], self.words)

    def merge(self, disk: Disk) -> None:
        going = {one.file for one in disk.layers if one.leaving}
        for file in (disk.file, *(one.file for one in disk.layers if not one.leaving)):
            while self.stands.get(file, "") in going:
                self.stands[file] = self.stands[self.stands[file]]

    def chain(self, disk: Disk) -> tuple[str, ...]:
        files, at = [], disk.file
        while at:
            files.append(at)
            at = self.stands.get(at, "")
        return tuple(files)

    def remove(self, removed: Sequence[Disk]) -> None:
        names = {file for d in removed for file in (d.file, *(one.file for one in d.layers))}
        for file in names:
            above = [top for top, below in self.stands.items() if below == file and top not in names]
            assert not above, f"{above[0]} stands on {file}, which is removed"
            self.holds.pop(file, None)
            self.stands.pop(file, None)


class Story:
    """A VM and its agent. What a snapshot held when it was taken is what it holds for ever."""

    def __init__(self) -> None:
        self.events: tuple[DevicesEvent, ...] = ()
        self.files = Files()
        self.held: dict[str, dict[str, tuple[int, ...]]] = {}
        self.count = 0
        self.generation = 0
        self.do("start")

    @property
    def state(self) -> Devices:
        return DEVICES.fold(self.events)

    def say(self, command: Any) -> None:
        try:
            self.events += tuple(DEVICES.decide(command, self.state))
        except Refused:
            return

    def do(self, step: str) -> None:
        state = self.state
        known = RUNS if isinstance(state, Granted) else RESTS
        names = [s.name for s in state.snapshots] if isinstance(state, Made) else []
        self.count += 1
        match step:
            case "start" if not isinstance(state, Granted):
                self.generation += 1
                self.say(replace(GRANT, generation=self.generation))
                if isinstance(now := self.state, Granted):
                    for disk in now.disks:
                        self.files.make(disk)
                    self.say(SettleDisks(vm="a", generation=self.generation))
            case "stop" if isinstance(state, Granted):
                self.say(RevokeDevices(vm="a", generation=self.generation))
            case "take" | "strict" | "rest":
                freeze = Freeze.REQUIRE if step == "strict" else Freeze.AUTO
                self.say(TakeSnapshot(vm="a", name=f"s{self.count}", known=known, freeze=freeze))
            case "revert" if names:
                at = names[self.count % len(names)]
                self.say(RevertSnapshot(vm="a", name=at, known=known, lose=("a", *names)))
            case "delete" if names:
                self.say(DeleteSnapshot(vm="a", name=names[self.count % len(names)], known=known))
            case "attach":
                self.say(AttachDisk(vm="a", disk=DiskWish(size_mib=5), known=known))
            case "detach" | "drop" if isinstance(state, Made):
                self.say(DetachDisk(vm="a", name=state.disks[-1].name, delete=step == "drop", known=known))
            case "see" | "fail" | "look" if isinstance(state, Granted):
                self._see(state, step)
            case "merge" | "remove":
                self._chores(step)
        self._writes()
        self._check()

    def _see(self, state: Granted, step: str) -> None:
        """look: nothing is done yet."""
        fails = step == "fail"
        taking = next((s for s in state.snapshots if s.state is SnapshotState.TAKING), None)
        took = Took(token=taking.token, failed=fails, sentence="no" if fails else "") if taking and step != "look" else None
        if step != "look" and not (fails and taking):
            for disk in state.disks:
                self.files.make(disk)
                self.files.merge(disk)
        seen = sees(state, took=took)
        chains = tuple((d.slot, self.files.chain(d)) for d in state.disks if d.file in self.files.holds)
        there = {d.slot for d in state.disks if d.file in self.files.holds or d.layers} | {n.slot for n in state.nics}
        has = replace(seen.hardware, chains=chains, slots=tuple(s for s in seen.hardware.slots if s in there))
        self.say(replace(seen, generation=state.holder, hardware=has))

    def _chores(self, step: str) -> None:
        version = len(self.events)
        for order in ordered("devices-a", self.state, version):
            message = order.message
            if isinstance(message, OrderDisksMerge) and step == "merge":
                for disk in message.disks:
                    self.files.make(disk)
                    self.files.merge(disk)
                self.say(ReportDisksMerged(vm="a", node=N1, order_version=version))
            elif isinstance(message, OrderDisksRemoval) and step == "remove":
                self.files.remove(message.disks)
                self.say(ReportDisksRemoved(vm="a", node=N1, order_version=version))

    def _writes(self) -> None:
        """The guest writes into what its disks are by now: the new file, once the agent has put it on top."""
        if isinstance(state := self.state, Granted):
            for disk in state.disks:
                if disk.file in self.files.holds:
                    self.files.write(disk)
                elif disk.layers:
                    self.files.write(replace(disk, file=disk.layers[0].file))

    def _check(self) -> None:
        state = self.state
        if not isinstance(state, Made):
            return
        there = {s.name for s in state.snapshots}
        self.held = {name: held for name, held in self.held.items() if name in there}
        for snapshot in state.snapshots:
            if snapshot.state is SnapshotState.TAKEN:
                now = {held.name: self.files.holds[held.file] for held in snapshot.disks}
                kept = self.held.setdefault(snapshot.name, now)
                assert all(kept[name] == words for name, words in now.items()), f"{snapshot.name} has changed"
        for disk in state.disks:
            assert len(disk.layers) <= LAYERS_MAX
            if disk.file in self.files.holds:
                files = self.files.chain(disk)
                assert set(files) <= {disk.file, *(one.file for one in disk.layers)}, "it stands on what is not known"


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(STEPS), max_size=40))
def test_whatever_comes_in_whatever_order_no_snapshot_changes_and_no_layer_is_lost(steps: list[str]) -> None:
    told = Story()
    for step in steps:
        told.do(step)


def test_layers_of_a_raw_disk_are_raw() -> None:
    raw = replace(GRANTED, disks=(replace(GRANTED.disks[0], format=DiskFormat.RAW),))
    asked, changed = after(raw, DisksSettled(vm=A, generation=1), command=TAKE)[:2]
    assert isinstance(asked, SnapshotRequested) and isinstance(changed, DevicesChanged)
    assert changed.disks[0].format is DiskFormat.QCOW2
    assert changed.disks[0].layers == (Layer(file=raw.disks[0].file, format=DiskFormat.RAW),)


def _believed(state: Granted, snapshot: Any, seen: Hardware) -> Any:
    """Taken as soon as anything is seen."""
    return [SnapshotTaken(vm=state.vm, generation=state.holder, name=snapshot.name, consistency=Consistency.CRASH)]


MUTANTS: dict[str, tuple[str, Any]] = {
    "a layer is merged because it is leaving": ("services.io.snapshots._chains", lambda seen: _Whatever()),
    "files keep their layers where they are thrown away": ("services.io.layers.files_of", lambda disk: iter((disk,))),
    "a snapshot is taken before it is seen": ("services.io.snapshots._note_taking", _believed),
    "two things at once": ("services.io.snapshots.check_idle", lambda made: None),
}


class _Whatever(dict[int, tuple[str, ...]]):
    """Every chain is as it is wanted."""

    def get(self, *_: Any) -> Any:
        return _Equal()


class _Equal:
    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 0


@pytest.mark.parametrize("name", MUTANTS)
def test_each_guard_is_missed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it, some order of steps loses or changes something."""
    where, instead = MUTANTS[name]
    monkeypatch.setattr(where, instead)
    module = "services.io.snapshots." + where.rpartition(".")[2]
    if where.startswith("services.io.layers"):
        monkeypatch.setattr(module, instead)
    if where.endswith("check_idle"):
        monkeypatch.setattr("services.io.changing.snapshots.check_idle", instead)
    draw = Random(1)
    with pytest.raises((AssertionError, KeyError, StopIteration, ValueError, IndexError)):
        for _ in range(300):
            told = Story()
            for step in draw.choices(STEPS, k=40):
                told.do(step)
