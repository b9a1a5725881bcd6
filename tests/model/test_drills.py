"""A recovery drill from its order to its end, and each way on which it fails; all of them leave nothing."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from libs.common.messages import NodeId, VmId
from proto.compute import DeleteVm, StopVm, VmStartFailed
from proto.drills import CancelDrill, Drill, DrillPlan, DrillVm, NoteDrill, Reason, SetDrillPlan, Went
from proto.machine import Priority
from services.compute.states import Running
from services.io.backups.drill_states import Drills, Phase
from services.io.backups.drill_turns import AT_ONCE_MAX
from services.io.backups.drill_turns import ticks as turns
from services.io.backups.drill_views import DrillViews, react
from services.io.backups.drilling import WAIT_US_MAX, named
from tests.model.backup_story import T0
from tests.model.backup_story import backups as decided
from tests.model.drill_world import CHECKED, SAVED, World


def begun(drill: Drill = CHECKED) -> World:
    """It waits for its guest."""
    world = World()
    world.do(DrillVm(vm="a", drill=drill))
    assert world.drill is not None and world.drill.phase is Phase.WAITING
    world.tick()
    world.quiet()
    world.agents()
    world.quiet()
    return world


def failed(world: World) -> tuple[Reason, str]:
    """The one result, once nothing is left."""
    world.goes(answers=False, steps=20)
    assert world.drill is None and not world.made() and not world.backups.holds
    assert len(world.named("DrillFailed")) + len(world.named("DrillPassed")) == 1
    event = world.named("DrillFailed")[0]
    return event.reason, event.sentence


def test_it_is_recovered_without_a_network_the_least_of_all_and_started() -> None:
    world = begun()
    now = world.drill
    assert now is not None and now.phase is Phase.CHECKING and now.ran_ms == 0
    (asked,) = world.named("RecoveryRequested")
    assert asked.isolated and not asked.start and asked.drill == now.id
    vm = world.vm(now.target)
    assert isinstance(vm, Running) and vm.definition.priority is Priority.BEST_EFFORT
    assert not any(nic.link for nic in vm.spec.nics)


def test_it_passes_and_nothing_is_left() -> None:
    world = begun()
    world.tick(3)
    world.answers(None)
    world.tick(2)
    world.answers(0, output="all is well\n")
    world.goes(steps=10)
    (passed,) = world.named("DrillPassed")
    assert (passed.exit_code, passed.output, passed.after_ms) == (0, "all is well\n", 5000)
    assert [event.after_ms for event in world.named("DrillWent") if event.went is Went.AGENT] == [3000]
    assert world.drill is None and world.backups.drills is None and not world.made() and not world.backups.holds
    assert len(world.named("DrillCleaned")) == 1


@pytest.mark.parametrize("code", [1, 127])
def test_a_check_that_exits_otherwise_fails_it(code: int) -> None:
    world = begun()
    world.answers(code, output="no")
    assert failed(world) == (Reason.CHECK, f"its check exited with {code}")


def test_a_check_that_cannot_be_run_fails_it() -> None:
    world = begun()
    world.answers(None, error="no such program")
    assert failed(world) == (Reason.CHECK, "its check did not run: no such program")


def test_a_guest_whose_agent_does_not_answer() -> None:
    world = begun()
    world.tick(58)
    assert world.drill is not None and world.drill.phase is Phase.CHECKING
    world.tick(2)
    assert failed(world) == (Reason.NO_AGENT, "it booted, and its guest's agent did not answer within 60 s")


def test_a_clock_that_goes_back_makes_none_endless() -> None:
    world = begun()
    world.tick(-30)
    assert world.drill is not None and world.drill.phase is Phase.CHECKING
    world.tick(-3600)
    reason, sentence = failed(world)
    assert reason is Reason.NO_AGENT and sentence.endswith("before the clock went back")


def test_a_guest_that_has_none_and_runs_on_is_enough_where_that_was_said() -> None:
    world = begun(Drill(agent=False, timeout_s=60))
    world.goes(answers=False, steps=14)
    assert not world.named("DrillPassed")
    world.goes(answers=False, steps=15)
    assert len(world.named("DrillPassed")) == 1 and world.drill is None and not world.made()


def test_no_room_is_its_result_and_the_backup_is_as_it_was() -> None:
    world = World()
    for node in world.compute.nodes.values():
        node.cordoned = True
    world.do(DrillVm(vm="a", drill=CHECKED))
    world.tick()
    world.quiet()
    reason, sentence = failed(world)
    assert reason is Reason.NO_ROOM and sentence
    assert not world.backups.backups[0].damaged


def test_memory_that_is_denied_everywhere_is_no_start() -> None:
    world = World()
    world.denied = True
    world.do(DrillVm(vm="a", drill=CHECKED))
    world.tick()
    world.quiet()
    world.tick(3)
    assert failed(world)[0] is Reason.NOT_STARTED


def test_a_start_that_another_node_is_asked_for_has_not_failed() -> None:
    views = DrillViews(targets={"drill-a": "a"})
    said = VmStartFailed(vm=VmId("drill-a"), node=NodeId("n1"), generation=1, sentence="its disk is held", again=True)
    assert not react(said, 5, views)
    (word,) = react(replace(said, again=False), 5, views)
    assert (word.went, word.sentence) == (Went.START_FAILED, "its disk is held")


def test_one_that_dies_is_not_started_again() -> None:
    world = begun()
    world.dies()
    assert failed(world)[0] is Reason.DIED
    assert len(world.named("VmStarted")) == 1


def test_one_that_is_given_up_and_one_that_somebody_deletes() -> None:
    world = begun()
    world.do(CancelDrill(vm="a"))
    assert failed(world)[0] is Reason.CANCELLED
    world = World()
    world.do(DrillVm(vm="a", drill=CHECKED))
    world.tick()
    while not world.made():
        world.react("compute")
    target = world.made().pop()
    world.do(StopVm(vm=target, deadline_s=0))
    world.do(DeleteVm(vm=target))
    world.quiet()
    assert failed(world)[0] in (Reason.REFUSED, Reason.REMOVED)


def test_what_is_deleted_before_its_disks_are_there_is_a_result() -> None:
    world = World()
    world.do(DrillVm(vm="a", drill=CHECKED))
    world.do(CancelDrill(vm="a"))
    assert failed(world)[0] is Reason.CANCELLED


def test_its_cleaning_is_asked_for_until_it_is_seen() -> None:
    world = begun()
    world.do(CancelDrill(vm="a"))
    world.quiet()
    for _ in range(90):
        world.tick()
        world.quiet()
    wanted = world.named("DrillCleanWanted")
    assert 4 <= len(wanted) <= 6 and world.made(), "its node is away: asked again, ever more seldom"
    world.goes(answers=False, steps=400)
    assert world.drill is None and not world.made()


def refusal(*given: Any, command: Any) -> str:
    refused = decided.given(*given).when(command).refusal
    assert refused is not None and refused.remedy
    return str(refused.reason)


def test_one_at_a_time_of_a_vm_and_words_that_are_none() -> None:
    assert refusal(*begun().events["backups-a"], command=DrillVm(vm="a")) == "BUSY"
    assert refusal(*SAVED, command=CancelDrill(vm="a")) == "DRILL_UNKNOWN"
    assert refusal(*SAVED, command=DrillVm(vm="a", drill=Drill(check=("x",), agent=False))) == "BAD_DRILL"
    assert refusal(command=DrillVm(vm="a")) == "BACKUP_UNKNOWN"
    plan = SetDrillPlan(vm="a", plan=DrillPlan(cron="61 * * * *"))
    assert refusal(*SAVED, command=plan) == "NOT_DEFINED"
    assert refusal(*SAVED, command=replace(plan, known=replace(plan.known, defined=True, at_us=T0))) == "BAD_TIME"


def test_few_go_on_at_once_the_one_that_waits_longest_first() -> None:
    found = begun().backups.drills
    assert found is not None and found.now is not None
    now = found.now

    def drills(asked_us: int, phase: Phase = Phase.WAITING) -> Drills:
        return replace(found, now=replace(now, phase=phase, asked_us=asked_us))

    at = now.started_us
    every = [("w", drills(at + 2)), ("x", drills(at + 1)), ("y", drills(at + 3))]
    assert [tick.vm for tick in turns(at + 10, every)] == ["x", "w"] and AT_ONCE_MAX == 2
    assert [tick.vm for tick in turns(at + 10, [*every, ("z", drills(at, Phase.CHECKING))])] == ["x"]
    late = turns(at + 3 + WAIT_US_MAX, every)
    assert {(tick.vm, tick.turn) for tick in late} == {("w", False), ("x", False), ("y", False)}


def test_by_a_plan_at_its_times_and_once_for_those_that_were_missed() -> None:
    world = World()
    world.do(SetDrillPlan(vm="a", plan=DrillPlan(cron="0 * * * *", drill=CHECKED)))
    world.goes(steps=30)
    assert not world.named("DrillRequested")
    world.tick(5 * 3600)
    world.goes(steps=30)
    assert len(world.named("DrillRequested")) == 1 and len(world.named("DrillPassed")) == 1
    world.tick(3600)
    world.goes(steps=30)
    assert len(world.named("DrillPassed")) == 2 and world.drill is None
    world.do(SetDrillPlan(vm="a"))
    assert world.backups.drills is None


def test_a_plan_of_a_vm_without_a_backup_fails_and_says_why() -> None:
    world = World()
    world.events["backups-a"] = []
    world.do(SetDrillPlan(vm="a", plan=DrillPlan(cron="0 * * * *")))
    world.tick(3601)
    world.tick()
    (event,) = world.named("DrillFailed")
    assert event.reason is Reason.REFUSED and "has no backup" in event.sentence
    assert world.drill is None


def test_what_is_told_of_another_vm_or_of_an_older_process_counts_for_nothing() -> None:
    world = begun()
    now = world.drill
    assert now is not None
    given = decided.given(*world.events["backups-a"])
    for target, generation in (("web", now.generation), (now.target, now.generation - 1)):
        note = NoteDrill(vm="a", target=target, went=Went.STOPPED, at_us=world.now_us, generation=generation)
        assert given.when(note).events == ()


def test_names_are_names_however_long() -> None:
    assert named("web-1", "1-7") == "drill-web-1-1-7"
    long = "x" * 63
    assert len(named(long, "1-7")) == 63 and named(long, "1-7") != named("x" * 62 + "y", "1-7")
