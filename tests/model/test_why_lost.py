"""A node's loss is told as one story, of the node and of each VM: what was seen, how it was proven, what became of its VMs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from msgspec.structs import replace

from libs.common.messages import Meta, NodeId, Recorded, encode
from libs.world.play import play
from libs.world.story import Step, Story
from proto.examples import example
from proto.fence import FenceConfirmed, FenceFailed, FenceRequested
from proto.lease import NodeLost, NodeReturned, NodeSuspected, NodeTrusted
from services.gateway.views.ha import HaView
from services.gateway.why.ask import Subject, Why, why
from services.gateway.why.episodes import episodes
from services.gateway.why.reading import known
from services.gateway.why.tree import Known, stories
from services.gateway.why.tree import Step as Told

N1 = NodeId("n1")


def flat(steps: list[Told]) -> Iterator[Told]:
    for step in steps:
        yield step
        yield from flat(step.effects)


def in_order(told: list[Told], *kinds: str) -> bool:
    rest = iter(step.type for step in told)
    return all(kind in rest for kind in kinds)


async def told_of(vm: bool) -> Why:
    outcome = play(Story(4, steps=(Step("power", 1.0, "n1", 40.0),)))
    assert not outcome.fault
    log, view = outcome.world.log, HaView()
    every = log.read_all_now(0, 10**6)
    for recorded in every:
        view.apply(recorded, known(recorded).event)
    name = outcome.world.ran["n1"][0]
    stream, beside = (f"vm-{name}", f"guard-{name}") if vm else ("node-n1", "lease-n1")
    positions = [recorded.position for recorded in every if recorded.stream == beside]
    return await why(log, Subject(stream, [stream], positions, view.led), lambda one: one)


async def test_a_vm_tells_from_the_suspicion_to_the_start_elsewhere() -> None:
    found = await told_of(vm=True)
    story = next(one for one in found.stories if any(step.type == "node_lost" for step in flat(one.steps)))
    told = list(flat(story.steps))
    assert in_order(told, "node_suspected", "node_lost", "vm_stopped", "vm_owed", "restart_wanted", "vm_started")
    lost = next(step for step in told if step.type == "node_lost")
    assert "lease is spent on every path" in lost.sentence
    assert [step.type for step in lost.effects][:1] == ["vm_stopped"], "what follows from it stands below it"
    assert sum(step.type == "node_suspected" for step in told) == 1


async def test_the_node_tells_the_same() -> None:
    found = await told_of(vm=False)
    story = next(one for one in found.stories if any(step.type == "node_lost" for step in flat(one.steps)))
    assert in_order(list(flat(story.steps)), "node_suspected", "node_lost")


class Log:
    """Events of one node, each of a task of its own unless it is said which event led to it."""

    def __init__(self) -> None:
        self.all: list[Known] = []
        self.view = HaView()

    def tell(self, event: Any, because: int = 0, actor: str = "service:ha") -> int:
        at = len(self.all) + 1
        task = self.all[because - 1].meta.correlation if because else f"t{at}"
        meta = Meta("c", f"1-{because}" if because else "", task, actor, 0)
        kind = str(type(event).__struct_config__.tag)
        stream = f"{'fence' if kind.startswith('fence') else 'lease'}-n1"
        recorded = Recorded(at, stream, at, kind, 1, at * 1_000_000, encode(event), encode(meta))
        self.all.append(Known(recorded, meta, event))
        self.view.apply(recorded, event)
        return at


def of(kind: Any, **more: Any) -> Any:
    return replace(example(kind), node=N1, **more)


def test_a_fence_devices_cut_stands_between_the_suspicion_and_the_loss() -> None:
    log = Log()
    suspected = log.tell(of(NodeSuspected))
    asked = log.tell(of(FenceRequested))
    confirmed = log.tell(of(FenceConfirmed), asked)
    lost = log.tell(of(NodeLost), confirmed)
    assert log.view.led[lost] == [suspected, asked, confirmed]
    assert log.view.told["n1"] == [suspected, asked, confirmed, lost]
    (story,) = stories(log.all, None, episodes(log.all))
    assert [step.type for step in flat(story.steps)] == ["node_suspected", "fence_requested", "fence_confirmed", "node_lost"]
    words = [step.sentence for step in flat(story.steps)]
    assert "the fence device of n1 is asked to switch it" in words[1] and words[2].startswith("the power of n1 is off")


def test_a_device_that_failed_is_told_too_and_the_lease_decided() -> None:
    log = Log()
    first = log.tell(of(NodeSuspected))
    asked = log.tell(of(FenceRequested))
    failed = log.tell(of(FenceFailed), asked)
    lost = log.tell(of(NodeLost))
    assert log.view.led[lost] == [first, asked, failed]
    assert len(stories(log.all, None, episodes(log.all))) == 1


def test_what_was_over_before_is_none_of_a_later_loss() -> None:
    log = Log()
    log.tell(of(NodeSuspected))
    log.tell(of(FenceRequested))
    log.tell(of(NodeTrusted))
    again = log.tell(of(NodeSuspected))
    lost = log.tell(of(NodeLost))
    assert log.view.led[lost] == [again]
    log.tell(of(NodeReturned))
    assert log.view.led[log.tell(of(NodeLost))] == []


def test_a_cut_that_somebody_asked_for_is_a_story_of_its_own() -> None:
    log = Log()
    log.tell(of(NodeSuspected))
    log.tell(of(FenceRequested), actor="user:ann")
    assert len(stories(log.all, None, episodes(log.all))) == 2
