"""The step debugger on a terminal: the log on the left, the stream's state on the right, what is known of the event below.

Everything it knows is in the walk (libs/past/walking.py); this shows it and hands keys on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, ClassVar

from rich.text import Text
from textual.app import App, ComposeResult, SuspendNotSupported
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.widgets import Footer, Input, Static

from libs.common.messages import Meta
from libs.past.condition import BadCondition
from libs.past.walking import Break, Walk
from libs.past.written import Unreadable
from services.host.replay import tell
from services.host.replay.debug import debug
from services.host.replay.keys import KEYS
from services.host.replay.log import Log

MARKS = {"~": "bold yellow", "+": "bold green", "-": "bold red", "": ""}


def whence(meta: Meta) -> str:
    """Of a command that no event led to."""
    if meta.actor.startswith("node:"):
        return f"seen by the agent of {meta.actor.removeprefix('node:')}"
    if meta.actor.startswith("service:"):
        return f"{meta.actor.removeprefix('service:')} asked by itself, at a tick"
    return "asked for from outside"


class Debugger(App[None]):
    """said: at first; debugger: what runs the decision when it is asked for."""

    TITLE = "asvctl replay"
    ENABLE_COMMAND_PALETTE = False
    AUTO_FOCUS = None
    CSS = """
    #log { width: 52%; height: 100%; border: round $primary; text-wrap: nowrap; text-overflow: ellipsis; }
    #right { width: 48%; }
    #state { border: round $primary; height: 2fr; }
    #event { border: round $primary; height: 1fr; }
    #said { height: 1; }
    Input { display: none; }
    Input.asked { display: block; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("question_mark", "keys", "keys"),
        Binding("q", "quit", "quit"),
        Binding("down,j,n", "by(1)", "next", priority=False),
        Binding("up,k,p", "by(-1)", "back"),
        Binding("pagedown", "by(20)", show=False),
        Binding("pageup", "by(-20)", show=False),
        Binding("home", "by(-1000000)", show=False),
        Binding("end", "by(1000000)", show=False),
        Binding("r", "run(1)", "run"),
        Binding("R", "run(-1)", "run back", show=False),
        Binding("b", "ask('break')", "break"),
        Binding("B", "clear", show=False),
        Binding("slash", "ask('find')", "find"),
        Binding("f", "again(1)", "again", show=False),
        Binding("F", "again(-1)", show=False),
        Binding("g", "ask('go')", "go to"),
        Binding("c", "cause", "cause"),
        Binding("e", "effect", "effect"),
        Binding("m", "mark", show=False),
        Binding("apostrophe", "marked", show=False),
        Binding("s", "before", "before"),
        Binding("w", "changed", "changes"),
        Binding("right_square_bracket", "scroll('state', 1)", show=False),
        Binding("left_square_bracket", "scroll('state', -1)", show=False),
        Binding("right_curly_bracket", "scroll('event', 1)", show=False),
        Binding("left_curly_bracket", "scroll('event', -1)", show=False),
        Binding("a", "all", "all"),
        Binding("d", "decide", "decide"),
        Binding("x", "debug", "pdb"),
        Binding("escape", "leave", show=False),
    ]

    def __init__(self, walk: Walk, said: str = "", debugger: Callable[[Any, Any, Any], str] = debug) -> None:
        super().__init__()
        self.walk = walk
        self.service = walk.only
        self.said = said
        self.before = False
        self.over = ""
        """in the place of the state, until the next key"""
        self.changes = False
        """only the lines of the state that the event changed"""
        self._seen = ""
        """the stream that was shown last"""
        self._debug = debugger
        self._asking = ""
        self._sought = ""

    def compose(self) -> ComposeResult:
        with Horizontal():
            yield Log(id="log")
            with Vertical(id="right"):
                with VerticalScroll(id="state", can_focus=False):  # arrows are the walk's
                    yield Static(id="fields")
                with VerticalScroll(id="event", can_focus=False):
                    yield Static(id="told")
        yield Static(id="said")
        yield Input()
        yield Footer()

    def on_mount(self) -> None:
        self.call_after_refresh(self.show)

    def on_resize(self) -> None:
        self.call_after_refresh(self.show)

    # --- what is seen ---------------------------------------------------------------------------------------------

    def show(self) -> None:
        walk, step = self.walk, self.walk.step
        log = self.query_one("#log", Log)
        log.border_title = f"{walk.only or 'all services'}, {walk.row + 1} of {len(walk.shown)}"
        log.show(walk)
        state = self.query_one("#state")
        side = "before" if self.before else "after"
        state.border_title = f"{step.recorded.stream} {side} version {step.recorded.version}"
        self.query_one("#fields", Static).update(Text(self.over) if self.over else self._state())
        if self._seen != step.recorded.stream:  # of the same stream one looks at the same place again
            self._seen = step.recorded.stream
            state.scroll_to(y=0, animate=False)
        self.query_one("#event").border_title = f"event {step.recorded.position}"
        self.query_one("#told", Static).update(Text("\n".join(self._event())))
        self.query_one("#said", Static).update(Text(self.said))

    def _state(self) -> Text:
        text = Text()
        for mark, shown in self._lines():
            text.append(f"{mark or ' '} {shown}\n", MARKS[mark])
        return text

    def _lines(self) -> Iterator[tuple[str, str]]:
        """(mark, text)"""
        for line in self.walk.state():
            if (self.before and line.mark == "+") or (self.changes and not line.mark):
                continue
            shown = line.text
            if line.was:
                shown = f"{line.text.split(': ')[0]}: {line.was}" if self.before else f"{line.text}  (was {line.was})"
            yield line.mark, shown

    def _event(self) -> list[str]:
        step = self.walk.step
        recorded, meta = step.recorded, step.meta
        effects = self.walk.effects()
        lines = [
            f"{recorded.type} v{recorded.v}  {tell.moment(recorded.at_us)}",
            f"by {meta.actor or 'nobody'}, task {meta.correlation or '-'}",
            f"command {meta.command}{'' if step.command else ' (not kept)'}",
            f"cause: {self._named(step.cause)}",
            f"effects: {', '.join(f'{one.recorded.position} {one.recorded.type}' for one in effects) or 'none'}",
        ]
        return [*lines, *(f"  {line.text}" for line in self.walk.said())]

    def _named(self, position: int) -> str:
        if not position:
            return f"none recorded: {whence(self.walk.step.meta)}"
        index = self.walk.steps.index(position)
        if index is None:
            return f"{position}, which is not here (--from {position})"
        known = self.walk.steps.all[index].recorded
        return f"{position} {known.stream} {known.type}"

    # --- what is asked --------------------------------------------------------------------------------------------

    def action_ask(self, what: str) -> None:
        box = self.query_one(Input)
        hints = {
            "break": "type vm_started | stream vm-web-1 | event.node == 'n1' and after.kind == 'Running'",
            "find": "text in type, stream, actor or fields",
            "go": "position",
        }
        self._asking, box.value, box.placeholder = what, "", hints[what]
        box.add_class("asked")
        box.focus()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        asked, text = self._asking, event.value.strip()
        self.action_leave()
        if not text:
            return
        if asked == "break":
            self._break(text)
        elif asked == "find":
            self._sought = text
            self.action_again(1)
        else:
            there = text.isdecimal() and self.walk.to(int(text))
            self._say("" if there else f"there is no event {tell.value(text)} here")

    def action_leave(self) -> None:
        self._asking = ""
        self.query_one(Input).remove_class("asked")
        self.set_focus(None)

    def _break(self, text: str) -> None:
        try:
            self.walk.breaks.append(Break(text))
        except BadCondition as bad:
            self._say(str(bad))
        else:
            self._say(f"{len(self.walk.breaks)} breakpoints; r runs to the next, B clears them")

    def action_clear(self) -> None:
        self.walk.breaks.clear()
        self._say("no breakpoints")

    # --- where to -------------------------------------------------------------------------------------------------

    def action_by(self, rows: int) -> None:
        self._say("" if self.walk.by(rows) else "that is the end" if rows > 0 else "that is the beginning")

    def action_run(self, way: int) -> None:
        if not self.walk.breaks:
            self._say("no breakpoints: b sets one")
            return
        hit = self.walk.run(way)
        self._say(f"stopped by `{hit.text}`" if hit else "no breakpoint stops from here on")

    def action_again(self, way: int) -> None:
        self._say("" if self.walk.find(self._sought, way) else f"`{self._sought}` is not found from here on")

    def action_cause(self) -> None:
        cause = self.walk.step.cause
        self._say("" if self.walk.cause() else f"its cause: {self._named(cause)}")

    def action_effect(self) -> None:
        self._say("" if self.walk.effect() else "it led to no recorded command")

    def action_mark(self) -> None:
        self.walk.mark()
        self._say("' goes to the next mark")

    def action_marked(self) -> None:
        self._say("" if self.walk.marked() else "no mark from here on")

    def action_before(self) -> None:
        self.before = not self.before
        self.show()

    def action_changed(self) -> None:
        self.changes, self._seen = not self.changes, ""
        self.show()

    def action_keys(self) -> None:
        self._say("", "" if self.over else KEYS)

    def action_scroll(self, what: str, pages: int) -> None:
        pane = self.query_one(f"#{what}")
        pane.scroll_relative(y=pages * max(pane.size.height - 2, 1), animate=False)

    def action_all(self) -> None:
        self.walk.show("" if self.walk.only else self.service or self.walk.step.service)
        self._say("")

    # --- deciding -------------------------------------------------------------------------------------------------

    def action_decide(self) -> None:
        try:
            found = self.walk.steps.again(self.walk.step)
        except (LookupError, Unreadable) as cannot:
            self._say(f"cannot be decided again: {cannot.args[0]}")
            return
        if found is None:
            self._say("today's code decides what was recorded")
        else:
            differs = "\n".join(tell.told(found))
            self._say(f"it differs in {', '.join(field.path for field in found.fields[:3])}", differs)

    def action_debug(self) -> None:
        try:
            decide, command, state = self.walk.steps.decision(self.walk.step)
        except (LookupError, Unreadable) as cannot:
            self._say(f"cannot be decided again: {cannot.args[0]}")
            return
        try:
            with self.suspend():
                came = self._debug(decide, command, state)
        except SuspendNotSupported:
            self._say("this terminal cannot be left for pdb")
            return
        self._say(came)
        self.refresh()

    def _say(self, text: str, over: str = "") -> None:
        self.said, self.over, self._seen = text, over, "" if over else self._seen
        self.show()
