"""Which events the step debugger holds, and what it says of those that it does not."""

from __future__ import annotations

import pytest

from libs.past.memory import MemoryPast
from libs.past.replaying import BadRange
from services.host.replay import stepper
from services.host.replay.words import Wanted
from tests.past_rig import failover

HEAD = failover().head_now().position


def wanted(first: int = 0, last: int = 0, service: str = "") -> Wanted:
    return Wanted(log="", service=service, first=first, last=last, step=True)


@pytest.mark.parametrize(
    ("first", "last", "held"),
    [(0, 0, (HEAD - 9, HEAD)), (0, 50, (41, 50)), (20, 0, (20, 29)), (20, 25, (20, 25)), (HEAD, 0, (HEAD, HEAD))],
)
async def test_so_many_are_held_and_those_before_are_folded(
    first: int, last: int, held: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stepper, "STEPS_MAX", 10)
    walk = await stepper.load(MemoryPast(failover()), wanted(first, last))
    positions = [step.recorded.position for step in walk.steps.all]
    assert (positions[0], positions[-1]) == held and len(positions) == held[1] - held[0] + 1
    monkeypatch.undo()
    every = (await stepper.load(MemoryPast(failover()), wanted())).steps.all
    assert [(step.before, step.after, step.number, step.command) for step in walk.steps.all] == [
        (step.before, step.after, step.number, step.command) for step in every[held[0] - 1 : held[1]]
    ]


async def test_a_command_that_is_cut_at_either_end_is_not_decided_again() -> None:
    every = (await stepper.load(MemoryPast(failover()), wanted())).steps.all
    second = next(step for step in every if step.number == 1 and step.command is not None).recorded.position
    cut = (await stepper.load(MemoryPast(failover()), wanted(1, second - 1))).steps
    with pytest.raises(LookupError, match="goes on behind the last event"):
        cut.again(cut.all[-1])
    late = (await stepper.load(MemoryPast(failover()), wanted(second))).steps
    for ask in (late.again, late.decision):
        with pytest.raises(LookupError, match="lies before the first event"):
            ask(late.all[0])


async def test_what_is_left_out_is_said() -> None:
    assert stepper._left_out(1, HEAD, HEAD) == ""
    assert "events 20 to 29 of 116 are here; --from" in stepper._left_out(20, 29, 116)


async def test_nothing_to_walk_is_said() -> None:
    past = MemoryPast(failover())
    with pytest.raises(LookupError, match="io decided nothing there"):
        await stepper.load(past, wanted(1, 2, "io"))
    with pytest.raises(BadRange, match="whose last event is"):
        await stepper.load(past, wanted(HEAD + 1))
