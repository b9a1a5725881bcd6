"""A recorded state goes on in another world: whatever was in flight is done again, nothing else happens, and what happens upon a
fault is what would have happened in the first world."""

from __future__ import annotations

import asyncio
from collections import Counter
from itertools import pairwise
from random import Random

import pytest

from libs.common.log.memory import MemoryLog
from libs.past.memory import MemoryPast
from libs.world.befall import befall
from libs.world.fork import copied, guests, slices
from libs.world.fork.fork import Fork, begin
from libs.world.fork.slices import CannotFork, Slice, taken
from libs.world.fork.timings import learnt
from libs.world.play import started
from libs.world.story import Step, Story
from libs.world.world import World
from proto.compute import StartVm
from services.compute.states import Absent, State, Stopped

STILL = {"term_began", "lease_taken"}
"""all that is written where nothing happens: another grantor begins"""
BUSY = (
    Step(do="power", who="n1", at=1.0, for_s=30.0),
    Step(do="migrate", who="@n2", at=2.0, more={"to": "n3"}),
    Step(do="define", who="vm-9", at=3.0),
    Step(do="start", who="vm-9", at=3.5),
    Step(do="snapshot", who="@n3", at=4.0),
    Step(do="stop", who="@n3", at=6.0),
    Step(do="vm_kill", who="@n2.2", at=8.0),
    Step(do="pause", who="@n2", at=40.0),
)


def slice_of(world: World, at: str = "now") -> Slice:
    return asyncio.run(taken(MemoryPast(world.log), at))


def where(world: World) -> dict[str, str]:
    """VM -> the node where its process is."""
    return {vm: name for name, node in world.agents.items() for vm in node.host.vms}


def idle(world: World) -> None:
    """Some command is always just under way, now and then."""
    for _ in range(50):
        if all(process.host is not None and process.host.idle() for process in world.services.values()):
            return
        world.run(0.02)


def busy(seed: int) -> World:
    world = started(Story(seed=seed, vms=5, steps=BUSY, seconds=60))
    world.run(60)
    return world


def mended(fork: Fork, seed: int) -> World:
    """It has settled, with power everywhere. Raises AssertionError where it cannot."""
    world = fork.world(seed)
    begin(world)
    world.run(10)
    for node in world.agents.values():
        node.power_on()
        node.begin()
    world.net.cut.clear()
    world.run(60)
    idle(world)
    world.checker.settled()
    return world


@pytest.mark.parametrize("seed", range(4))
def test_a_fork_that_nothing_is_done_to_stays_still(seed: int) -> None:
    pools = {2: "two", 3: "apart"}.get(seed, "shared")
    first = started(Story(seed=seed, nodes=3 + seed % 2, vms=4 + seed, pools=pools))
    first.run(3)
    slice = slice_of(first)
    world = Fork(slice).world(seed)
    assert where(world) == where(first)
    begin(world)
    world.run(60)
    assert {recorded.type for recorded in world.log.read_all_now(slice.position, 10**6)} <= STILL
    assert where(world) == where(first)
    idle(world)
    world.checker.settled()


@pytest.mark.parametrize("seed", range(3))
def test_a_fork_of_any_moment_settles(seed: int) -> None:
    first, random = busy(seed), Random(seed)
    head = first.log.head_now().position
    for n in range(6):
        mended(Fork(slice_of(first, str(random.randrange(15, head + 1)))), n)


@pytest.mark.parametrize("seed", range(4))
def test_a_node_that_loses_power_in_the_fork_loses_its_vms_as_in_the_first_world(seed: int) -> None:
    """One with few VMs: where two nodes are about as good for a second one, beats decide, which fall otherwise in each."""
    first = started(Story(seed=seed, vms=5))
    first.run(3)
    fork = Fork(slice_of(first))
    world = fork.world(seed)
    begin(world)
    world.run(12)
    count = Counter(where(first).values())
    victim = min(count, key=lambda name: count[name])
    for one in (first, world):
        befall(one, Step(do="power", who=victim))
        one.run(25)
    assert where(world) == where(first)
    assert victim not in where(world).values() and len(where(world)) == 5


def test_nothing_is_written_to_the_log_that_is_forked() -> None:
    first = started(Story(seed=1))
    before = list(first.log.read_all_now(0, 10**6))
    world = Fork(slice_of(first)).world()
    begin(world)
    world.run(5)
    assert first.log.read_all_now(0, 10**6) == before
    assert world.log.head_now().position > len(before)


# --- each guard, taken away, is missed -------------------------------------------------------------------------------


def test_a_fork_that_forgets_what_was_in_flight_does_not_settle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Taken for reacted to: all that was written."""
    monkeypatch.setattr(copied, "reacted", lambda events, services: dict.fromkeys(services, len(events)))
    first = busy(1)
    positions = [r.position for r in first.log.read_all_now(0, 10**6) if r.type == "vm_start_requested" and r.position > 15]
    with pytest.raises(AssertionError, match="L1"):
        for position in positions:
            mended(Fork(slice_of(first, str(position))), 1)


def started_again(fork: Fork) -> tuple[set[str], set[str]]:
    """VMs that are to run once vm-2, which was stopped, is started, and a node has lost its power; and those that do."""
    world = mended(fork, 1)
    ran = set(where(world))
    assert isinstance(fork.states["vm-vm-2"], Stopped) and "vm-2" not in ran
    world.ask("compute", "vm-vm-2", StartVm(vm="vm-2"))
    befall(world, Step(do="power", who="n2"))
    world.run(40)
    return {*ran, "vm-2"}, set(where(world))


def test_a_fork_without_the_disks_of_the_log_starts_nothing_again(monkeypatch: pytest.MonkeyPatch) -> None:
    fork = Fork(slice_of(busy(1)))
    wanted, run = started_again(fork)
    assert run == wanted
    monkeypatch.setattr(guests, "lay", lambda pool, disk: pool.disks.clear())  # all but that of the VM that is looked at last
    lost = {vm for vm, node in where(fork.world()).items() if node == "n2"}
    wanted, run = started_again(fork)
    assert wanted - run > {"vm-2"} and wanted - run <= {"vm-2", *lost}


def test_a_decision_is_taken_whole_or_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    first = busy(1)
    events = first.log.read_all_now(0, 10**6)
    types = ("vm_memory_noted", "vm_launch_requested")
    inside = next(a.position for a, b in pairwise(events) if (a.type, b.type) == types)
    assert slice_of(first, str(inside)).position == inside - 1
    assert slice_of(first, str(inside + 1)).position == inside + 1
    monkeypatch.setattr(slices, "_decided", lambda read, position: tuple(read[:position]))
    with pytest.raises(AssertionError, match="L1"):
        mended(Fork(slice_of(first, str(inside))), 1)


# --- moments that are none -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at", "said"),
    [
        ("100000", "there is no position 100000: the log has 1 to"),
        ("0", "there is no position 0"),
        ("1999-01-01 00:00", "before the first event"),
        ("2999-01-01 00:00", "after the last event"),
        ("yesterday", "`yesterday` is no moment: write now, a position, or a time"),
        ("1", "no node has reported by then"),
    ],
)
def test_a_moment_that_is_none_is_said_to_be(at: str, said: str) -> None:
    first = started(Story(seed=1))
    with pytest.raises(CannotFork, match=said):
        Fork(slice_of(first, at))


def test_an_empty_log_is_no_beginning() -> None:
    with pytest.raises(CannotFork, match="nothing in the log"):
        asyncio.run(taken(MemoryPast(MemoryLog(lambda: 1))))


def test_a_log_that_is_too_long_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slices, "EVENTS_MAX", 20)
    with pytest.raises(CannotFork, match="a fork holds at most 20: fork an earlier moment"):
        slice_of(started(Story(seed=1)))


def test_times_are_learnt_from_the_log() -> None:
    first = busy(2)
    times = learnt(slice_of(first).events)
    assert times.start.known >= 5 and 255 <= times.start.low_ms <= times.start.median_ms <= times.start.p90_ms <= 700
    assert times.recovery is not None and times.recovery.known >= 1
    nothing = learnt(())
    assert nothing.start.known == 0 and nothing.start.low_ms == 255 and nothing.recovery is None
    vms = [s for s in Fork(slice_of(first)).states.values() if isinstance(s, State) and not isinstance(s, Absent)]
    assert len(vms) == 6
