"""Snapshots: taken when they are seen, or at rest at once; merged upwards; gone back to by whoever names what is lost."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from libs.common.decider import Refused
from libs.common.host.service import Order
from libs.common.messages import NodeId
from proto.hardware import Consistency, Hardware, Misfit, Took, chain, leaving
from proto.io import (
    AttachDisk,
    DetachDisk,
    DeviceMisfit,
    DevicesChanged,
    DevicesDenied,
    DevicesEvent,
    DevicesGranted,
    DisksRemovalRequested,
    DisksSettled,
    GrantDevices,
    NoteHardware,
    Refusal,
    RemoveDevices,
    ReportDisksRemoved,
    ResizeDisk,
    RevokeDevices,
    SettleDisks,
    SnapshotDeleted,
    SnapshotFailed,
    SnapshotFound,
    SnapshotRequested,
    SnapshotTaken,
)
from proto.machine import LAYERS_MAX, Disk, DiskFormat, DiskWish, Freeze, Layer, Taking
from proto.node import OrderDisksMerge, OrderDisksRemoval
from proto.snapshots import DeleteSnapshot, ReportDisksMerged, RevertSnapshot, TakeSnapshot
from services.io.model import DEVICES
from services.io.react import orders
from services.io.states import Devices, Granted, Made, Revoked, SnapshotState
from tests.model.test_io import GRANT, GRANTED, N1, REVOKED, A, devices
from tests.model.test_io_changes import RESTS, RUNS, after

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


def test_all_disks_go_on_in_new_files_and_the_snapshot_is_taken_when_they_are_seen() -> None:
    asked, changed = after(*RUNNING, command=TAKE)
    assert isinstance(asked, SnapshotRequested) and isinstance(changed, DevicesChanged)
    assert (asked.token, asked.generation, tuple(held.file for held in asked.disks)) == ("1-3", 1, FIRST)
    assert [disk.file for disk in changed.disks] == ["a-disk0.s1-3.qcow2", "a-disk1.s1-3.qcow2"]
    assert [disk.layers[0].file for disk in changed.disks] == list(FIRST)
    assert changed.taking == Taking(token="1-3") and not any(disk.made for disk in changed.disks)
    begun = (*RUNNING, asked, changed)
    devices.given(*begun).when(sees(DEVICES.fold(RUNNING))).nothing()
    devices.given(*begun).when(sees(DEVICES.fold(begun), generation=2)).nothing()
    took = Took(token="1-3", consistency=Consistency.FILESYSTEM, frozen_ms=9, took_ms=20)
    taken = SnapshotTaken(
        vm=A, generation=1, name="s1", consistency=Consistency.FILESYSTEM, frozen_ms=9, took_ms=20
    )
    devices.given(*begun).when(sees(DEVICES.fold(begun), took=took)).then(taken).twice()
    assert all(disk.made for disk in disks((*begun, taken)))
    (forgotten,) = told(*begun, took=replace(took, token="1-2"))
    assert isinstance(forgotten, SnapshotTaken) and forgotten.consistency is Consistency.CRASH and forgotten.sentence


def test_one_disk_of_two_is_no_snapshot() -> None:
    begun = (*RUNNING, *after(*RUNNING, command=TAKE))
    whole = sees(DEVICES.fold(begun))
    half = replace(whole, hardware=replace(whole.hardware, chains=whole.hardware.chains[:1]))
    devices.given(*begun).when(half).nothing()


def test_one_that_could_not_be_taken_leaves_the_disks_as_they_were_and_its_files_go() -> None:
    begun = (*RUNNING, *after(*RUNNING, command=replace(TAKE, freeze=Freeze.REQUIRE)))
    failed, back = told(*begun, took=Took(token="1-3", failed=True, sentence="silent"))
    assert failed == SnapshotFailed(vm=A, generation=1, name="s1", sentence="silent")
    over = (*begun, failed, back)
    assert disks(over) == disks(RUNNING) and snapshots(over) == {}
    (order,) = ordered("devices-a", DEVICES.fold(over), 9)
    assert isinstance(order.message, OrderDisksRemoval)
    assert {d.file for d in order.message.disks} == {"a-disk0.s1-3.qcow2", "a-disk1.s1-3.qcow2"}
    assert all(not d.layers for d in order.message.disks)


def test_a_process_that_ends_meanwhile_leaves_what_was_written_by_then() -> None:
    revoke = RevokeDevices(vm="a", generation=1)
    begun = (*RUNNING, *after(*RUNNING, command=TAKE))
    taken, _ = after(*begun, command=revoke)
    assert isinstance(taken, SnapshotTaken) and taken.consistency is Consistency.CRASH and taken.unseen
    ended = (*begun, *after(*begun, command=revoke))
    assert not any(disk.made for disk in disks(ended)), "the next start makes the files that are not there"
    strict = (*RUNNING, *after(*RUNNING, command=replace(TAKE, freeze=Freeze.REQUIRE)))
    failed, _ = after(*strict, command=revoke)
    assert isinstance(failed, SnapshotFailed) and failed.unseen
    ended = (*strict, *after(*strict, command=revoke))
    assert snapshots(ended) == {"s1": "deleting"} and all(leaving(disk) for disk in disks(ended))


def test_refusals() -> None:
    devices.given().when(replace(TAKE, known=RESTS)).refused(Refusal.NOTHING_NEW)
    devices.given().when(TakeSnapshot(vm="a", name="s1")).refused(Refusal.NOT_DEFINED)
    devices.given(GRANTED, REVOKED).when(replace(TAKE, known=RESTS)).refused(Refusal.NOTHING_NEW)
    begun = (*RUNNING, *after(*RUNNING, command=TAKE))
    busy: list[Any] = [
        TAKE,
        replace(TAKE, name="s2"),
        DeleteSnapshot(vm="a", name="s1", known=RUNS),
        ResizeDisk(vm="a", name="disk0", size_mib=10_000, known=RUNS),
        AttachDisk(vm="a", disk=DiskWish(size_mib=5), known=RUNS),
    ]
    for command in busy:
        devices.given(*begun).when(command).refused(Refusal.BUSY)
    taken = story(TAKE)
    devices.given(*taken).when(TAKE).refused(Refusal.SNAPSHOT_KNOWN)
    devices.given(*taken).when(DeleteSnapshot(vm="a", name="x", known=RUNS)).refused(Refusal.SNAPSHOT_UNKNOWN)
    devices.given(*taken).when(RevertSnapshot(vm="a", name="s1", lose=("a",), known=RUNS)).refused(Refusal.NOT_STOPPED)
    devices.given(*taken).when(DetachDisk(vm="a", name="disk1", known=RUNS)).refused(Refusal.HAS_SNAPSHOTS)
    attaching = (*RUNNING, *after(*RUNNING, command=busy[-1]))
    devices.given(*attaching).when(TAKE).refused(Refusal.BUSY)
    full = story(*(replace(TAKE, name=f"s{i}") for i in range(LAYERS_MAX)))
    devices.given(*full).when(replace(TAKE, name="more")).refused(Refusal.TOO_MANY)


def test_a_deleted_one_is_gone_when_it_is_seen_merged_and_its_files_then() -> None:
    three = story(TAKE, replace(TAKE, name="s2"), replace(TAKE, name="s3"))
    begun = (*three, *after(*three, command=DeleteSnapshot(vm="a", name="s2", known=RUNS)))
    assert all([one.leaving for one in disk.layers] == [False, True, False] for disk in disks(begun))
    as_before = sees(DEVICES.fold(three))
    devices.given(*begun).when(as_before).nothing()
    devices.given(*begun).when(replace(as_before, hardware=replace(as_before.hardware, chains=()))).nothing()
    full = Misfit(what="snapshot", slot=1, sentence="no space", pending=True)
    stuck = after(*begun, command=replace(as_before, hardware=replace(as_before.hardware, misfits=(full,))))
    assert stuck == (DeviceMisfit(vm=A, generation=1, name="s2", slot=-1, sentence="no space", pending=True),)
    gone, changed = told(*begun)
    assert isinstance(gone, SnapshotDeleted) and len(gone.files) == 2
    over = (*begun, gone, changed)
    assert snapshots(over) == {"s1": "taken", "s3": "taken"} and not any(leaving(disk) for disk in disks(over))
    (order,) = ordered("devices-a", DEVICES.fold(over), 9)
    assert isinstance(order.message, OrderDisksRemoval) and {d.file for d in order.message.disks} == set(gone.files)
    devices.given(*over).when(sees(DEVICES.fold(over))).nothing()


def test_at_rest_it_is_taken_at_once_and_merged_by_order() -> None:
    rest = (*story(TAKE), REVOKED)
    taken = story(replace(TAKE, name="s2", known=RESTS), begin=rest)
    assert snapshots(taken) == {"s1": "taken", "s2": "taken"}
    last = taken[-1]
    assert isinstance(last, SnapshotTaken) and last.consistency is Consistency.STOPPED
    devices.given(*taken).when(replace(TAKE, name="s3", known=RESTS)).refused(Refusal.NOTHING_NEW)
    begun = story(DeleteSnapshot(vm="a", name="s1", known=RESTS), begin=taken)
    (order,) = ordered("devices-a", DEVICES.fold(begun), 7)
    assert isinstance(order.message, OrderDisksMerge) and order.node == N1
    early = ReportDisksMerged(vm="a", node=N1, order_version=1)
    devices.given(*begun).when(early).nothing()
    devices.given(*begun).when(replace(early, order_version=99, order_incarnation=2)).nothing()
    devices.given(*begun).when(replace(early, order_version=99, node=NodeId("n2"))).nothing()
    over = (*begun, *after(*begun, command=replace(early, order_version=99)))
    assert snapshots(over) == {"s2": "taken"}
    started = (*begun, *after(*begun, command=replace(GRANT, generation=2)))
    devices.given(*started).when(replace(early, order_version=99)).nothing()
    assert not any(isinstance(o.message, OrderDisksMerge) for o in ordered("devices-a", DEVICES.fold(started), 9))


def test_going_back_throws_away_what_is_newer_once_it_is_named() -> None:
    rest = (*story(TAKE, replace(TAKE, name="s2"), replace(TAKE, name="s3")), REVOKED)
    back = RevertSnapshot(vm="a", name="s1", known=RESTS, lose=("a",))
    said = devices.given(*rest).when(back).refused(Refusal.NOT_CONFIRMED).refusal
    assert said is not None and "s2, s3" in said.sentence and said.remedy.endswith("--lose s2 --lose s3")
    before = disks(rest)
    over = (*rest, *after(*rest, command=replace(back, lose=("a", "s2", "s3"))))
    assert snapshots(over) == {"s1": "taken"}
    for was, now in zip(before, disks(over), strict=True):
        assert (now.layers, now.made) == (was.layers[2:], False) and now.file not in (was.file, *(x.file for x in was.layers))
    (order,) = ordered("devices-a", DEVICES.fold(over), 9)
    assert isinstance(order.message, OrderDisksRemoval)
    dropped = {d.file for d in order.message.disks}
    assert dropped == {file for d in before for file in (d.file, *(one.file for one in d.layers[:2]))}
    assert all(not d.layers for d in order.message.disks)


def test_a_disk_that_came_later_stays_and_one_that_leaves_takes_its_layers_along() -> None:
    attach = AttachDisk(vm="a", disk=DiskWish(size_mib=5), known=RUNS)
    events = story(TAKE, attach, replace(TAKE, name="s2"))
    assert [len(disk.layers) for disk in disks(events)] == [2, 2, 1]
    rest = (*events, REVOKED)
    over = (*rest, *after(*rest, command=RevertSnapshot(vm="a", name="s1", known=RESTS, lose=("a", "s2"))))
    assert [len(disk.layers) for disk in disks(over)] == [1, 1, 1], "the later disk is not put back"
    out = (*rest, *after(*rest, command=DetachDisk(vm="a", name="disk2", delete=True, known=RESTS)))
    (order,) = ordered("devices-a", DEVICES.fold(out), 9)
    assert isinstance(order.message, OrderDisksRemoval) and len(order.message.disks[0].layers) == 1
    state = DEVICES.fold(out)
    assert isinstance(state, Revoked) and [len(s.disks) for s in state.snapshots] == [2, 2]


def test_a_deleted_vm_takes_all_layers_along() -> None:
    rest = (*story(TAKE, replace(TAKE, name="s2")), REVOKED)
    (asked,) = after(*rest, command=RemoveDevices(vm="a"))
    assert isinstance(asked, DisksRemovalRequested) and all(len(disk.layers) == 2 for disk in asked.disks)


def test_snapshots_do_not_go_along_to_another_pool_and_are_not_made_anew_there() -> None:
    taken = story(TAKE)
    move = GrantDevices(vm="a", node=NodeId("n2"), generation=2, copied=("default",), pool_ids={"default": "other"})
    (denied,) = after(*taken, command=move)
    assert isinstance(denied, DevicesDenied) and "snapshots" in denied.sentence
    at = replace(GRANT, pool_ids={"default": "one"})
    begun = (*after(command=at), DisksSettled(vm=A, generation=1))
    rest = (*story(TAKE, begin=begun), REVOKED)
    unmade = story(RevertSnapshot(vm="a", name="s1", known=RESTS, lose=("a",)), begin=rest)
    (denied,) = after(*unmade, command=replace(at, generation=3, pool_ids={"default": "other"}))
    assert isinstance(denied, DevicesDenied), "its layers are in the first pool, though nothing has run since"


def test_a_log_that_lost_snapshots_finds_them_beneath_a_vm_that_runs() -> None:
    has = disks(story(TAKE, replace(TAKE, name="s2")))
    found = GrantDevices(vm="a", node=N1, generation=1, running=True, has_disks=has)
    granted, first, second = after(GRANTED, REVOKED, command=found)
    assert isinstance(granted, DevicesGranted) and granted.disks == has
    assert isinstance(first, SnapshotFound) and isinstance(second, SnapshotFound)
    over = (GRANTED, REVOKED, granted, first, second)
    assert snapshots(over) == {"found-1-3": "taken", "found-1-6": "taken"}
    state = DEVICES.fold(over)
    assert isinstance(state, Made) and [s.disks[0].file for s in state.snapshots] == [FIRST[0], "a-disk0.s1-3.qcow2"]
    fewer = story(TAKE, replace(TAKE, name="s2"), DeleteSnapshot(vm="a", name="s1", known=RUNS))
    older = (*story(TAKE, replace(TAKE, name="s2")), REVOKED)
    merged = (*older, *after(*older, command=replace(found, has_disks=disks(fewer))))
    assert snapshots(merged) == {"s2": "taken"}, "one that was deleted since is not shown again"


# --- any order of all of it --------------------------------------------------------------------------------------------------

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
