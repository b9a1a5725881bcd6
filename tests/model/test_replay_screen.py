"""The step debugger as its users have it: keys in, what is on the screen out (Textual's pilot; no terminal)."""

from __future__ import annotations

from typing import Any

from textual.pilot import Pilot
from textual.widgets import Input, Static

from services.host.replay.screen import Debugger, Log
from tests.model.test_redecide import story
from tests.model.test_walking import echoed, walked
from tests.toy import TOY

SIZE = (120, 36)


def debugger(desk: Any = None) -> Debugger:
    return Debugger(walked(desk or echoed()))


def shown(app: Debugger, what: str) -> str:
    return str(app.query_one(what, Static).content)


async def keys(pilot: Pilot[None], *pressed: str) -> None:
    await pilot.press(*pressed)
    await pilot.pause()


async def typed(pilot: Pilot[None], key: str, text: str) -> None:
    await keys(pilot, key)
    pilot.app.query_one(Input).value = text
    await keys(pilot, "enter")


async def test_log_left_state_right_and_the_change_marked() -> None:
    app = debugger()
    async with app.run_test(size=SIZE) as pilot:
        await pilot.pause()
        assert ">       1 counter-a 1 raised" in shown(app, "#log")
        assert "~ total: 1  (was 0)" in shown(app, "#fields") and "  type: Total" in shown(app, "#fields")
        assert "by user:ada" in shown(app, "#told") and "effects: 4 raised, 5 raised" in shown(app, "#told")
        left, right = app.query_one("#log", Log).region, app.query_one("#state").region
        assert left.x < right.x and left.width > 40


async def test_steps_on_and_back_and_the_state_before() -> None:
    app = debugger()
    async with app.run_test(size=SIZE) as pilot:
        await keys(pilot, "down", "n", "k")
        assert app.walk.step.recorded.position == 2
        await keys(pilot, "s")
        assert "~ total: 1\n" in shown(app, "#fields") and "before version 2" in str(app.query_one("#state").border_title)
        await keys(pilot, "up", "up")
        assert shown(app, "#said") == "that is the beginning"


async def test_causes_effects_search_and_going_to_a_position() -> None:
    app = debugger()
    async with app.run_test(size=SIZE) as pilot:
        await keys(pilot, "c")
        assert "none recorded" in shown(app, "#said")
        await keys(pilot, "e")
        assert app.walk.step.recorded.position == 4
        await keys(pilot, "c")
        assert app.walk.step.recorded.position == 1
        await typed(pilot, "slash", "all-echo")
        assert app.walk.step.recorded.position == 5
        await keys(pilot, "f")
        assert app.walk.step.recorded.position == 7
        await typed(pilot, "g", "2")
        assert app.walk.step.recorded.position == 2
        await typed(pilot, "g", "99")
        assert app.walk.step.recorded.position == 2 and "there is no event" in shown(app, "#said")
        await keys(pilot, "slash", "escape", "down")
        assert app.walk.step.recorded.position == 3, "keys are the walk's again"


async def test_breakpoints_run_and_say_what_is_wrong_with_them() -> None:
    app = debugger()
    async with app.run_test(size=SIZE) as pilot:
        await keys(pilot, "r")
        assert "b sets one" in shown(app, "#said")
        await typed(pilot, "b", "counter-a.total == ")
        assert "the end" in shown(app, "#said") and app.walk.breaks == []
        await typed(pilot, "b", "counter-a.total == 3")
        await keys(pilot, "r")
        assert app.walk.step.recorded.position == 3 and "stopped by" in shown(app, "#said")
        await keys(pilot, "B", "r")
        assert "b sets one" in shown(app, "#said")


async def test_marks_and_deciding_again() -> None:
    app = debugger(story(TOY))
    async with app.run_test(size=SIZE) as pilot:
        await keys(pilot, "m")
        assert ">*" in shown(app, "#log")
        await keys(pilot, "d")
        assert shown(app, "#said") == "today's code decides what was recorded"
        await keys(pilot, "q")
    assert app.return_code == 0


async def test_a_screen_that_cannot_be_left_says_so() -> None:
    app = debugger()
    async with app.run_test(size=SIZE) as pilot:
        await keys(pilot, "x")
        assert shown(app, "#said") == "this terminal cannot be left for pdb"
