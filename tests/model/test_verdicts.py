"""Verdicts on VMs: two independent signs, one of them the guest's own word; graces; once per generation; what compute then does."""

from __future__ import annotations

from random import Random
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from libs.common.messages import NodeId, Recorded, VmId, encode, tag_of
from proto.compute import (
    GoneCause,
    VmPauseRequested,
    VmReset,
    VmResumeRequested,
    VmStarted,
    VmStopped,
    VmStopRequested,
)
from proto.guard import Guard, GuardSet, Mode
from proto.lease import HaArmed, HaDisarmed
from proto.migration import VmIncomingGone
from proto.panics import VmPanicked, VmPanicOver
from proto.vitals import (
    Finding,
    JudgeVm,
    Kind,
    LiftVerdict,
    Look,
    Screen,
    Sign,
    VerdictLifted,
    VerdictReached,
    VitalsBeat,
    VmVitals,
)
from services.gateway.why.verdicts import of_verdicts
from services.ha.verdict_rule import AGENT_S, IDLE_S, STILL_S, two_signs
from services.ha.verdict_views import VitalsViews, enrich, look, react
from services.ha.verdicts import VERDICT, Judged

WEB, N1 = VmId("web-1"), NodeId("n1")
S = 1_000_000


def f(sign: Sign, word: str, for_s: float = 60.0) -> Finding:
    return Finding(sign=sign, word=word, for_s=for_s)


SILENT, STILL, SPINS = f(Sign.AGENT, "silent"), f(Sign.IO, "still"), f(Sign.CPU, "spins")
MOVES, RAN_OUT = f(Sign.IO, "moves", 0), f(Sign.WATCHDOG, "ran-out", 5)
BLUE, PANIC_TEXT, BLACK = (f(Sign.SCREEN, look, 0) for look in (Look.BLUE, Look.PANIC, Look.BLACK))
STANDS, RUNS, STARVED = f(Sign.CPU, "stands"), f(Sign.CPU, "runs"), f(Sign.CPU, "starved")


@pytest.mark.parametrize(
    "findings",
    [
        (SILENT, STILL, SPINS),
        (SILENT, STILL, STANDS),
        (f(Sign.AGENT, "silent", IDLE_S), f(Sign.CPU, "spins", IDLE_S)),  # it has neither disk nor NIC
        (SILENT, RAN_OUT),
        (RAN_OUT, STILL, RUNS),
        (PANIC_TEXT, STILL, SPINS),
        (BLUE, STILL),
        (BLUE, SILENT, RUNS),
        (f(Sign.AGENT, "silent", IDLE_S), f(Sign.IO, "still", STILL_S), RUNS),
    ],
)
def test_two_signs_are_a_hang(findings: tuple[Finding, ...]) -> None:
    assert two_signs(findings)


@pytest.mark.parametrize(
    "findings",
    [
        (),
        (SILENT,),
        (STILL, SPINS),  # it computes
        (STILL, STANDS),  # it has nothing to do, and no agent
        (STILL, STANDS, BLACK),  # and its screen is switched off
        (f(Sign.AGENT, "silent", IDLE_S - 1), STILL, RUNS),  # an agent that is stuck, in a guest with little to do
        (SILENT, MOVES, SPINS),
        (f(Sign.AGENT, "silent", IDLE_S - 1), SPINS),  # it has neither disk nor NIC
        (RAN_OUT, MOVES),
        (RAN_OUT, f(Sign.AGENT, "answers", 0), STILL),
        (BLUE, MOVES),
        (PANIC_TEXT,),
        (SILENT, STILL, STARVED),  # the host gives it no time
        (SILENT, RAN_OUT, STARVED),
        (f(Sign.AGENT, "silent", AGENT_S - 1), STILL, SPINS),
        (SILENT, f(Sign.IO, "still", 5), SPINS),
        (f(Sign.AGENT, "silent", AGENT_S), STILL, f(Sign.CPU, "spins", 3)),
        (f(Sign.AGENT, "none"), STILL, SPINS),
    ],
)
def test_less_is_none(findings: tuple[Finding, ...]) -> None:
    assert not two_signs(findings)


def test_what_it_does_counts_once_and_life_outweighs_all() -> None:
    """Over many mixtures: without a word of the guest's own there is no hang, and none with a sign of life."""
    random = Random(5)
    words = {
        Sign.AGENT: ("none", "silent", "answers"),
        Sign.WATCHDOG: ("", "ran-out"),
        Sign.IO: ("", "still", "moves"),
        Sign.CPU: ("runs", "spins", "stands", "starved"),
        Sign.SCREEN: ("", *Look),
    }
    for _ in range(3000):
        some = {sign: random.choice(words[sign]) for sign in words}
        findings = [f(sign, word, random.choice((0, 10, 30, 200))) for sign, word in some.items() if word]
        own = some[Sign.AGENT] == "silent" or some[Sign.WATCHDOG] or some[Sign.SCREEN] in (Look.PANIC, Look.BLUE)
        alive = some[Sign.AGENT] == "answers" or some[Sign.IO] == "moves" or some[Sign.CPU] == "starved"
        if two_signs(findings):
            assert own and not alive, findings


# --- the views -------------------------------------------------------------------------------------------------


class World:
    """One VM, its verdicts, and what ha knows of it."""

    def __init__(self, guard: Guard | None = None) -> None:
        self.views = VitalsViews()
        self.state = Judged()
        self.now_us = 1000 * S
        self.events: list[Any] = []
        if guard is not None:
            self.says(GuardSet(vm=WEB, guard=guard))
        self.says(VmStarted(vm=WEB, node=N1, generation=1))

    def says(self, event: Any) -> None:
        recorded = Recorded(1, "x", 1, tag_of(type(event)), 1, self.now_us, b"", b"")
        self.views.apply(recorded, event)
        for command in react(event, recorded):
            self.do(command)

    def do(self, command: Any) -> None:
        if isinstance(command, JudgeVm):
            command = enrich(command, self.views, self.now_us)
        for event in VERDICT.decide(command, self.state):
            self.state = VERDICT.evolve(self.state, event)
            self.events.append(event)
            self.says(event)
            assert of_verdicts(event)

    def beat(
        self, *findings: Finding, up_s: float = 500, hold: str = "", slow: bool = False, generation: int = 1
    ) -> World:
        vms = (VmVitals("web-1", generation, up_s, findings, hold),) if findings else ()
        return self.hears(VitalsBeat("n1", "b", self.now_us, 1, slow, vms))

    def hears(self, beat: VitalsBeat) -> World:
        self.views.hear("tel.n1.vitals", encode(beat), self.now_us)
        return self.ticks()

    def ticks(self, s: float = 1) -> World:
        for _ in range(round(s)):
            self.now_us += S
            for command in list(look(self.now_us, self.views)):
                self.do(command)
        return self

    @property
    def kinds(self) -> list[Kind]:
        return [e.kind for e in self.events if isinstance(e, VerdictReached)]


def panicked(generation: int = 1) -> VmPanicked:
    return VmPanicked(vm=WEB, node=N1, generation=generation, sentence="the guest panicked", screen=Screen(digest="ab"))


def test_a_panic_is_a_verdict_at_once_with_its_picture_and_only_once() -> None:
    world = World()
    world.says(panicked())
    (verdict,) = world.events
    assert (verdict.kind, verdict.treated, verdict.number, verdict.node) == (Kind.PANIC, True, 1, "n1")
    assert verdict.evidence.screen == Screen(digest="ab")
    world.ticks(5).beat(SILENT, STILL, SPINS)
    assert len(world.events) == 1, "it is being ended"


def test_a_panic_may_be_left_for_a_while_or_for_ever() -> None:
    waiting = World(Guard(panic_wait_s=10))
    waiting.says(panicked())
    assert not waiting.ticks(8).events
    assert waiting.ticks(3).kinds == [Kind.PANIC]
    for guard in (Guard(panics=False), Guard(mode=Mode.OFF)):
        world = World(guard)
        world.says(panicked())
        assert [e.treated for e in world.events] == [False] and world.events[0].why_not
        world.says(VmPanicOver(vm=WEB, node=N1, generation=1))
        assert isinstance(world.events[-1], VerdictLifted)
        world.says(panicked())
        assert world.kinds == [Kind.PANIC, Kind.PANIC], "another one of the same process"


def test_while_disarmed_nothing_is_judged_and_then_it_is() -> None:
    world = World()
    world.says(HaDisarmed(reason="work"))
    world.says(panicked())
    assert not world.ticks(3).events
    world.says(HaArmed())
    assert world.ticks().kinds == [Kind.PANIC]
    until = World()
    until.says(HaDisarmed(reason="work", until_us=until.now_us + 5 * S))
    until.says(panicked())
    assert not until.ticks(3).events
    assert until.ticks(4).kinds == [Kind.PANIC]


def test_a_hang_is_a_verdict_by_what_its_node_tells() -> None:
    world = World().beat(SILENT, STILL, SPINS)
    assert world.kinds == [Kind.HANG]
    assert "has not answered for 60 s" in world.events[0].sentence
    assert not World().beat(SILENT).events


@pytest.mark.parametrize(
    "more",
    [{"up_s": 100}, {"hold": "it is being given devices"}, {"slow": True}, {"generation": 2}],
)
def test_graces(more: dict[str, Any]) -> None:
    assert not World().beat(SILENT, STILL, SPINS, **more).ticks(3).events


def test_what_was_told_long_ago_is_nothing() -> None:
    world = World(Guard(grace_s=120))
    world.beat(SILENT, STILL, SPINS, up_s=119)
    assert not world.ticks(60).events


def test_what_is_being_stopped_paused_or_moved_is_not_judged() -> None:
    stop = VmStopRequested(vm=WEB, node=N1, generation=1, deadline_s=60)
    world = World()
    world.says(stop)
    assert not world.beat(SILENT, STILL, SPINS).events
    moving = World()
    moving.views.wards["web-1"].held = "it is being moved"
    assert not moving.beat(SILENT, STILL, SPINS).events
    moving.says(VmIncomingGone(vm=WEB, node=NodeId("n2"), generation=2, source=N1, source_generation=1))
    assert moving.beat(SILENT, STILL, SPINS).kinds == [Kind.HANG]


def test_a_pause_that_was_taken_back_before_it_was_seen_holds_nothing() -> None:
    world = World()
    world.says(VmPauseRequested(vm=WEB, generation=1))
    assert not world.beat(SILENT, STILL, SPINS).events
    world.says(VmResumeRequested(vm=WEB, generation=1))
    assert world.beat(SILENT, STILL, SPINS).kinds == [Kind.HANG]


def test_one_that_was_judged_as_it_began_to_be_moved_is_judged_again_once_that_comes_to_nothing() -> None:
    world = World()
    world.says(panicked())
    back = VmIncomingGone(vm=WEB, node=NodeId("n2"), generation=2, source=N1, source_generation=1)
    assert world.ticks(3).kinds == [Kind.PANIC]
    world.says(back)
    assert world.kinds == [Kind.PANIC, Kind.PANIC]
    disarmed = World()
    disarmed.says(panicked())
    disarmed.says(HaDisarmed(reason="r"))
    disarmed.says(back)
    assert disarmed.ticks(3).kinds == [Kind.PANIC]
    disarmed.says(HaArmed())
    assert disarmed.ticks(3).kinds == [Kind.PANIC, Kind.PANIC], "once, when it may be"
    well = World()
    well.says(back)
    assert well.ticks().kinds == []
    left = World(Guard(mode=Mode.OFF))
    left.says(panicked())
    left.says(back)
    assert left.kinds == [Kind.PANIC], "nothing was to be done upon it"


def test_what_was_told_before_a_reset_is_of_the_boot_before() -> None:
    world = World()
    hung = VmVitals("web-1", 1, 500, (SILENT, STILL, SPINS), "")
    world.views.hear("tel.n1.vitals", encode(VitalsBeat("n1", "b", world.now_us, 1, False, (hung,))), world.now_us)
    world.says(VmReset(vm=WEB, generation=1, resets=1))
    assert world.ticks(5).kinds == []
    assert world.beat(SILENT, STILL, SPINS).kinds == [Kind.HANG]


def test_another_node_says_nothing_of_it_nor_in_another_ones_name() -> None:
    world = World()
    beat = VitalsBeat("n2", "b", 0, 1, False, (VmVitals("web-1", 1, 500, (SILENT, STILL, SPINS)),))
    for subject in ("tel.n2.vitals", "tel.n1.vitals"):
        world.views.hear(subject, encode(beat), world.now_us)
    assert not world.ticks(2).events


def test_a_hang_that_is_left_alone_is_lifted_when_it_lives_and_may_come_again() -> None:
    world = World(Guard(hangs=False)).beat(SILENT, STILL, SPINS)
    assert [e.treated for e in world.events] == [False]
    world.beat(SILENT, STILL, SPINS)
    assert len(world.events) == 1
    world.beat()
    assert isinstance(world.events[-1], VerdictLifted)
    assert world.beat(SILENT, STILL, SPINS).kinds == [Kind.HANG, Kind.HANG]


def test_a_watchdog_alone_is_told_of_and_left_alone_and_may_become_a_hang() -> None:
    late = f(Sign.WATCHDOG, "ran-out", 61)
    world = World().beat(late, MOVES)
    assert [(e.kind, e.treated) for e in world.events] == [(Kind.WATCHDOG, False)]
    assert world.beat(late, STILL).kinds == [Kind.WATCHDOG, Kind.HANG]
    assert world.events[-1].treated


def test_a_process_that_died_is_a_verdict_with_its_last_words() -> None:
    world = World()
    said = "QEMU ended by signal 11: out of luck"
    world.says(VmStopped(vm=WEB, node=N1, generation=1, cause=GoneCause.CRASHED, sentence=said))
    (verdict,) = world.events
    assert (verdict.kind, verdict.sentence, verdict.treated) == (Kind.DIED, said, True)
    assert not world.ticks(3).events[1:]
    for cause in (GoneCause.ORDERED, GoneCause.GUEST, GoneCause.HANG, GoneCause.MIGRATED):
        other = World()
        other.says(VmStopped(vm=WEB, node=N1, generation=1, cause=cause))
        assert not other.events


def test_numbers_go_on_over_generations_and_the_past_is_not_judged() -> None:
    world = World()
    world.says(panicked())
    world.says(VmStarted(vm=WEB, node=N1, generation=2))
    world.says(panicked(2))
    assert [e.number for e in world.events] == [1, 2]
    late = JudgeVm(vm="web-1", generation=1, now_us=1, kind=Kind.DIED, evidence=world.events[0].evidence, treated=True)
    assert not VERDICT.decide(late, world.state)
    assert not VERDICT.decide(LiftVerdict(vm="web-1", generation=1, sentence="x", now_us=1), world.state)


def test_a_forged_hang_is_judged_again_where_it_is_decided() -> None:
    ward = World().beat(SILENT, STILL, SPINS).events[0]
    one = replace(ward.evidence, findings=(SILENT,))
    forged = JudgeVm(vm="web-1", generation=9, now_us=1, kind=Kind.HANG, evidence=one, treated=True)
    assert not VERDICT.decide(forged, Judged())
    assert VERDICT.decide(replace(forged, evidence=ward.evidence), Judged())


def test_what_is_known_outlives_the_service() -> None:
    """Its views go into snapshots."""
    world = World(Guard(panic_wait_s=60)).beat(SILENT, STILL)
    world.says(panicked())
    again = msgspec.msgpack.decode(msgspec.msgpack.encode(world.views), type=VitalsViews)
    assert again == world.views and again.wards["web-1"].panic is not None
