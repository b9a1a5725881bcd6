"""The step debugger as its users have it: keys in, what is on the screen out (Textual's pilot; no terminal)."""

from __future__ import annotations

from typing import Any

from textual.binding import Binding
from textual.pilot import Pilot
from textual.widgets import Input, Static

from services.host.replay.keys import KEYS
from services.host.replay.log import Log
from services.host.replay.screen import Debugger
from tests.model.test_redecide import changed, story
from tests.model.test_walking import echoed, walked
from tests.toy import TOY, Expire, Raised

SIZE = (120, 36)
SIGNS = {
    "slash": "/", "apostrophe": "'", "question_mark": "?", "left_square_bracket": "[", "right_square_bracket": "]",
    "left_curly_bracket": "{", "right_curly_bracket": "}", "pagedown": "page keys", "pageup": "page keys",
}  # fmt: skip
"""keys by the names that a terminal's library gives them"""


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
        assert "~ total: 1\n" in shown(app, "#fields") and "before version 2" in str(
            app.query_one("#state").border_title
        )
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


async def test_a_narrow_terminal_cuts_lines_and_does_not_fold_them() -> None:
    app = debugger()
    async with app.run_test(size=(50, 24)) as pilot:
        await pilot.pause()
        strips = app.screen._compositor.render_strips()
        rows = ["".join(segment.text for segment in strip) for strip in strips]
        assert rows[1].startswith("│>       1 counter-a 1") and rows[2].startswith("│        2 counter-a 2"), rows[:4]
        assert "? keys" in rows[-1] and "q quit" in rows[-1]


async def test_only_what_changed_is_shown_where_that_is_wanted() -> None:
    app = debugger()
    async with app.run_test(size=SIZE) as pilot:
        await keys(pilot, "w")
        assert shown(app, "#fields") == "~ total: 1  (was 0)\n"
        await keys(pilot, "w")
        assert "  type: Total" in shown(app, "#fields")


async def test_a_key_tells_all_keys_and_panes_scroll() -> None:
    app = debugger()
    async with app.run_test(size=SIZE) as pilot:
        await keys(pilot, "question_mark")
        for binding in Debugger.BINDINGS:
            assert isinstance(binding, Binding)
            signs = [SIGNS.get(key, key) for key in binding.key.split(",")]
            assert binding.key == "escape" or any(f"{sign} " in f"{KEYS} ".replace(",", " ") for sign in signs), binding
        assert shown(app, "#fields") == KEYS
        state = app.query_one("#state")
        await keys(pilot, "right_square_bracket")
        assert state.scroll_y > 0
        await keys(pilot, "left_square_bracket")
        assert state.scroll_y == 0
        await keys(pilot, "down")
        assert "type: Total" in shown(app, "#fields"), "the state is there again"


async def test_what_differs_is_told_where_one_stands() -> None:
    policy = changed(lambda c, s: [Raised(counter=c.counter, by=0)] if isinstance(c, Expire) else None)
    app = Debugger(walked(story(), service=policy))
    async with app.run_test(size=SIZE) as pilot:
        await typed(pilot, "slash", "-95")
        await keys(pilot, "d")
        assert shown(app, "#said") == "it differs in events[0].by"
        assert "command expire" in shown(app, "#fields") and "events[0].by: -95 -> 0" in shown(app, "#fields")


async def test_a_screen_that_cannot_be_left_says_so() -> None:
    app = debugger()
    async with app.run_test(size=SIZE) as pilot:
        await keys(pilot, "x")
        assert shown(app, "#said") == "this terminal cannot be left for pdb"
