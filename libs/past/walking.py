"""Walking through steps: a cursor, breakpoints, marks, search, causes and effects. Pure; the screen only shows it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from libs.past.condition import Condition, Scene
from libs.past.fields import ABSENT, Field, differing
from libs.past.steps import Step, Steps

VALUE_MAX = 160


class Break:
    """Where to stop: `type vm_started`, `stream vm-web-1`, or a condition (condition.py) that holds; one that is about states alone
    stops where it begins to."""

    def __init__(self, text: str) -> None:
        """Raises BadCondition."""
        self.text = text.strip()
        word, _, rest = self.text.partition(" ")
        self._word = word if word in ("type", "stream") and rest and rest.split()[0] not in ("==", "!=", "in", "<", ">") else ""
        self._wanted = rest.strip()
        self._condition = None if self._word else Condition(self.text)

    def stops(self, step: Step, scene: Callable[[Step], Scene], before: Step | None) -> bool:
        if self._word:
            return self._wanted == (step.recorded.type if self._word == "type" else step.recorded.stream)
        assert self._condition is not None
        if not self._condition.holds(scene(step)):
            return False
        return self._condition.moves or before is None or not self._condition.holds(scene(before))


class Line(msgspec.Struct, frozen=True):
    """A line of a state: mark `~` changed, `+` new, `-` gone, or none; was: the value before, where it changed."""

    text: str
    mark: str = ""
    was: str = ""


class Walk:
    """cursor: the index in `steps.all` of the event that one stands behind. only: the service whose events are walked; "": all."""

    def __init__(self, steps: Steps, only: str = "") -> None:
        self.steps = steps
        self.cursor = 0
        self.breaks: list[Break] = []
        self.marks: set[int] = set()
        self.only = ""
        self.shown: list[int] = []
        self.show(only)

    def show(self, only: str) -> None:
        """The events of one service, or all; the cursor stays, or goes to the next that is shown."""
        found = [n for n, step in enumerate(self.steps.all) if only in ("", step.service)]
        if not found and self.steps.all:
            raise LookupError(f"{only} decided nothing there")
        self.only, self.shown = only, found
        if found:
            self.cursor = found[self.row]

    @property
    def row(self) -> int:
        """The cursor's place among those that are shown."""
        return min(bisect_left(self.shown, self.cursor), len(self.shown) - 1)

    @property
    def step(self) -> Step:
        return self.steps.all[self.cursor]

    def by(self, rows: int) -> bool:
        """Onwards or back; False at an end."""
        row = min(max(self.row + rows, 0), len(self.shown) - 1)
        moved = self.shown[row] != self.cursor
        self.cursor = self.shown[row]
        return moved

    def to(self, position: int) -> bool:
        """To an event, shown or not (then all are). False where it is not here."""
        index = self.steps.index(position)
        if index is None:
            return False
        if index not in self.shown[bisect_left(self.shown, index) :][:1]:
            self.show("")
        self.cursor = index
        return True

    # --- looking for something ------------------------------------------------------------------------------------

    def run(self, way: int = 1) -> Break | None:
        """To the next event at which a breakpoint stops; to the end where none does."""
        if not self.breaks:
            return None
        for index in self._ahead(way):
            before = self.steps.all[index - 1] if index else None
            for one in self.breaks:
                if one.stops(self.steps.all[index], self.scene, before):
                    self.cursor = index
                    return one
        return None

    def find(self, text: str, way: int = 1) -> bool:
        """The next event that has the text in its type, stream, actor or fields."""
        wanted = text.casefold()
        return self._first(lambda step: wanted in _words(step), way)

    def marked(self, way: int = 1) -> bool:
        return self._first(lambda step: step.recorded.position in self.marks, way)

    def mark(self) -> None:
        self.marks ^= {self.step.recorded.position}

    def cause(self) -> bool:
        """To the event that led to this one's command."""
        return bool(self.step.cause) and self.to(self.step.cause)

    def effects(self) -> list[Step]:
        """Events of the commands that this event led to, the first of each."""
        at = self.step.recorded.position
        return [one for one in self.steps.all[self.cursor + 1 :] if one.cause == at and one.number == 0]

    def effect(self) -> bool:
        """To the first of them."""
        found = self.effects()
        return bool(found) and self.to(found[0].recorded.position)

    def scene(self, step: Step) -> Scene:
        recorded = step.recorded
        own = {
            "type": recorded.type, "stream": recorded.stream, "position": recorded.position, "version": recorded.version,
            "at_us": recorded.at_us, "event": _plain(step.event), "before": _plain(step.before), "after": _plain(step.after),
        }  # fmt: skip

        def state(stream: str) -> tuple[Any, int] | None:
            found = self.steps.state(stream, recorded.position)
            return None if found is None else (_plain(found[0]), found[1])

        return Scene(own, state)

    def _ahead(self, way: int) -> Iterable[int]:
        row = self.row
        return self.shown[row + 1 :] if way > 0 else reversed(self.shown[:row])

    def _first(self, wanted: Callable[[Step], bool], way: int) -> bool:
        for index in self._ahead(way):
            if wanted(self.steps.all[index]):
                self.cursor = index
                return True
        return False

    # --- what is to be seen ---------------------------------------------------------------------------------------

    def changed(self) -> list[Field]:
        return list(differing(_plain(self.step.before), _plain(self.step.after)))

    def said(self) -> list[Line]:
        """The event's fields."""
        body = {name: value for name, value in _plain(self.step.event).items() if name != "type"}
        return list(outline(body, body))

    def state(self) -> list[Line]:
        """The stream's state behind the event, with what is new, changed and gone."""
        return list(outline(_plain(self.step.before), _plain(self.step.after)))


def outline(before: Any, after: Any, name: str = "", depth: int = 0) -> Iterable[Line]:
    """A tree of both, a line for each value."""
    indent = "  " * depth
    if _branch(before) and _branch(after) and isinstance(before, dict) is isinstance(after, dict):
        old, new = _entries(before), _entries(after)
        if name:
            yield Line(f"{indent}{name}", "~" if before != after else "")
        for key in [*new, *(key for key in old if key not in new)]:
            yield from outline(old.get(key, ABSENT), new.get(key, ABSENT), key, depth + bool(name))
        return
    if before is ABSENT:
        yield from _whole(after, name, depth, "+")
    elif after is ABSENT:
        yield from _whole(before, name, depth, "-")
    else:
        same = before == after and type(before) is type(after)
        yield Line(f"{indent}{name}: {_short(after)}", "" if same else "~", "" if same else _short(before))


def _branch(value: Any) -> bool:
    return isinstance(value, dict | list | tuple)


def _whole(value: Any, name: str, depth: int, mark: str) -> Iterable[Line]:
    if _branch(value) and value:
        yield Line(f"{'  ' * depth}{name}", mark)
        for key, one in _entries(value).items():
            yield from _whole(one, key, depth + 1, mark)
    else:
        yield Line(f"{'  ' * depth}{name}: {_short(value)}", mark)


def _entries(value: Any) -> dict[str, Any]:
    return {str(k): v for k, v in value.items()} if isinstance(value, dict) else {f"[{n}]": v for n, v in enumerate(value)}


def _short(value: Any) -> str:
    said = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    text = "".join(c if c.isprintable() else "?" for c in said)
    return text if len(text) <= VALUE_MAX else f"{text[:VALUE_MAX]}…"


def _plain(value: Any) -> Any:
    return msgspec.to_builtins(value)


def _words(step: Step) -> str:
    recorded = step.recorded
    said = msgspec.json.encode(step.event).decode()
    return f"{recorded.type} {recorded.stream} {step.meta.actor} {said}".casefold()
