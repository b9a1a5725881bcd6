"""No life of a ledger breaks its invariants, and each guard that is taken away is missed. A million lives: `make prove`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace as with_fields
from typing import Any

import msgspec
import pytest

from proto.machine import Priority
from services.memory import admit, balloon, capacity, ladder, model, scene
from services.memory.model import LEDGER, Unset
from tests.model.ledger_stories import Story

STORIES = 1500
LONG = 40


def run(stories: int, steps: int) -> Counter[str]:
    seen: Counter[str] = Counter()
    for seed in range(stories):
        story = Story(seed)
        for _ in range(steps):
            seen[type(story.step()).__name__] += 1
        seen.update(promises=story.proof.promises, denials=story.proof.denials, ladder=story.proof.steps)
    return seen


def test_no_short_life_breaks_an_invariant() -> None:
    seen = run(STORIES, 8)
    assert min(seen["promises"], seen["denials"], seen["ladder"]) > 200, f"the lives show nothing: {seen}"


def test_no_long_life_breaks_an_invariant() -> None:
    seen = run(LONG, 200)
    assert seen["ladder"] > 500 and seen["promises"] > 500, f"the lives show nothing: {seen}"


def test_states_on_the_way_survive_the_wire() -> None:
    story = Story(7)
    for _ in range(100):
        story.step()
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(story.state), type=LEDGER.state) == story.state


def test_events_in_any_order_never_raise() -> None:
    events: list[Any] = []
    for seed in range(20):
        story = Story(seed, events.append)
        for _ in range(40):
            story.step()
    assert len(events) > 200
    Story(1).random.shuffle(events)
    assert not isinstance(LEDGER.fold(events), Unset)


# --- each guard, taken away, is missed -------------------------------------------------------------------------------


def nothing_is_denied(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(model, "broken", lambda *_: ())


def the_share_is_for_all(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(admit, "room_mib", lambda ledger, purpose: ledger.capacity_mib)


def nothing_is_refused(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(capacity, "over", lambda *_: ())


def critical_vms_pay_too(patch: pytest.MonkeyPatch) -> None:
    class Anyone:
        CRITICAL = None
        BEST_EFFORT = Priority.BEST_EFFORT

    patch.setattr(scene, "Priority", Anyone)


def reservations_are_no_floor(patch: pytest.MonkeyPatch) -> None:
    careless = balloon.revoke

    def revoke(holders: Any, wanted_mib: int, in_need: bool) -> Any:
        return careless([holder._replace(reservation_mib=0) for holder in holders], wanted_mib, in_need)

    patch.setattr(ladder, "revoke", revoke)


def swap_goes_below_reservations(patch: pytest.MonkeyPatch) -> None:
    swap = ladder._swap

    def careless(view: Any, wanted_mib: int, targets: Any) -> Any:
        vms = tuple(with_fields(vm, reservation_mib=0) for vm in view.vms)
        return swap(with_fields(view, vms=vms), wanted_mib, targets)

    patch.setattr(ladder, "_swap", careless)


MUTANTS: list[Callable[[pytest.MonkeyPatch], None]] = [
    nothing_is_denied,
    the_share_is_for_all,
    nothing_is_refused,
    critical_vms_pay_too,
    reservations_are_no_floor,
    swap_goes_below_reservations,
]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.__name__)
def test_a_guard_that_is_taken_away_is_missed(mutant: Callable[[pytest.MonkeyPatch], None]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        mutant(patch)
        with pytest.raises(AssertionError):
            run(LONG, 200)
