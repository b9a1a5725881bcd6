"""A small language for conditions over an event and folded states. Pure; nothing in it can do anything.

    vm-web-1.state.kind == "Running" and vm-web-1.version < 12
    type == "vm_stopped" and event.cause in ["panic", "hang"] or not (before.total >= 3)

    words     type stream position version at_us of the event; event.FIELD of what it says; before.FIELD and after.FIELD of its
              stream's state; STREAM.state.FIELD and STREAM.version of any stream, where `kind` is the state's own name
    values    numbers, "text" or 'text', true false none, [lists]
    signs     == != < <= > >= in, and or not, brackets; what is not there is none, and is less or more than nothing
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

LENGTH_MAX = 500
DEPTH_MAX = 30
OWN = ("type", "stream", "position", "version", "at_us", "event", "before", "after")
TOKENS = re.compile(
    r"\s*(?:(?P<number>-?\d+(?:\.\d+)?)(?![\w-])|(?P<text>\"[^\"]*\"|'[^']*')|(?P<sign>==|!=|<=|>=|<|>|\(|\)|\[|\]|,)"
    r"|(?P<word>[A-Za-z_][\w-]*(?:\.[A-Za-z_][\w-]*|\[\d+\])*))"
)
CONSTANTS = {"true": True, "false": False, "none": None}
SIGNS: dict[str, Callable[[Any, Any], bool]] = {
    "==": lambda a, b: bool(a == b),
    "!=": lambda a, b: bool(a != b),
    "<": lambda a, b: bool(a < b),
    "<=": lambda a, b: bool(a <= b),
    ">": lambda a, b: bool(a > b),
    ">=": lambda a, b: bool(a >= b),
    "in": lambda a, b: a in b,
}


class BadCondition(Exception):
    """It is not understood. The sentence says where, and what would be right."""


class Scene(NamedTuple):
    """What a condition is held against. own: the words of the event (OWN); states: stream -> (state, version)."""

    own: Mapping[str, Any]
    states: Callable[[str], tuple[Any, int] | None]


type _Value = Callable[[Scene], Any]


class Condition:
    """`holds(scene)`; streams: those that it names, so that no others need be folded; moves: does it look at the event itself?"""

    def __init__(self, text: str) -> None:
        """Raises BadCondition."""
        self.text = text
        self.streams: set[str] = set()
        self.moves = False
        parser = _Parser(text, self)
        self._value = parser.whole()

    def holds(self, scene: Scene) -> bool:
        return bool(self._value(scene))


class _Parser:
    def __init__(self, text: str, condition: Condition) -> None:
        if len(text) > LENGTH_MAX:
            raise BadCondition(f"a condition of {len(text)} characters; at most {LENGTH_MAX}")
        self._condition = condition
        self._tokens = _tokens(text)
        self._at = 0
        self._depth = 0

    def whole(self) -> _Value:
        value = self._or()
        if self._at < len(self._tokens):
            raise self._wrong("an end, `and` or `or`")
        return value

    def _or(self) -> _Value:
        left = self._and()
        while self._next("or"):
            left = _either(left, self._and())
        return left

    def _and(self) -> _Value:
        left = self._not()
        while self._next("and"):
            left = _both(left, self._not())
        return left

    def _not(self) -> _Value:
        if self._next("not"):
            inner = self._deeper(self._not)
            return lambda scene: not inner(scene)
        return self._compared()

    def _compared(self) -> _Value:
        left = self._single()
        sign = self._peek()
        if sign not in SIGNS:
            return left
        self._at += 1
        right, compare = self._single(), SIGNS[sign]

        def compared(scene: Scene) -> bool:
            try:
                return compare(left(scene), right(scene))
            except TypeError:  # none, or things of two kinds: neither is less
                return False

        return compared

    def _single(self) -> _Value:
        if self._at >= len(self._tokens):
            raise self._wrong("a word or a value")
        kind, sign = self._tokens[self._at]
        if sign == "(":
            self._at += 1
            inner = self._deeper(self._or)
            self._close(")")
            return inner
        if sign == "[":
            self._at += 1
            return self._list()
        if kind == "sign" or sign in ("and", "or", "not", "in"):
            raise self._wrong("a word or a value")
        self._at += 1
        if kind == "number":
            number = float(sign) if "." in sign else int(sign)
            return lambda _: number
        if kind == "text":
            return lambda _: sign[1:-1]
        if sign in CONSTANTS:
            return lambda _: CONSTANTS[sign]
        return self._word(sign)

    def _list(self) -> _Value:
        items: list[_Value] = []
        while self._peek() != "]":
            items.append(self._deeper(self._single))
            if not self._next(","):
                break
        self._close("]")
        return lambda scene: [item(scene) for item in items]

    def _word(self, sign: str) -> _Value:
        first, *rest = re.findall(r"[A-Za-z_][\w-]*|\[\d+\]", sign)
        path = [int(part[1:-1]) if part.startswith("[") else part for part in rest]
        if first in OWN:
            self._condition.moves = True
            return lambda scene: _follow(scene.own.get(first), path)
        if "-" not in first:
            raise BadCondition(f"`{first}` is no word here: {', '.join(OWN)}, or a stream such as `vm-web-1.state.kind`")
        self._condition.streams.add(first)

        def of_stream(scene: Scene) -> Any:
            found = scene.states(first)
            if found is None:
                return None
            return found[1] if path[:1] == ["version"] else _follow(found[0], path[1:] if path[:1] == ["state"] else path)

        return of_stream

    def _deeper(self, rule: Callable[[], _Value]) -> _Value:
        self._depth += 1
        if self._depth > DEPTH_MAX:
            raise BadCondition(f"a condition in a condition, {DEPTH_MAX} deep; fewer brackets would do")
        value = rule()
        self._depth -= 1
        return value

    def _peek(self) -> str:
        return self._tokens[self._at][1] if self._at < len(self._tokens) else ""

    def _next(self, sign: str) -> bool:
        found = self._peek() == sign
        self._at += found
        return found

    def _close(self, sign: str) -> None:
        if not self._next(sign):
            raise self._wrong(f"`{sign}`")

    def _wrong(self, expected: str) -> BadCondition:
        given = f"`{self._peek()}`" if self._peek() else "the end"
        return BadCondition(f"{given} in `{self._condition.text}`, where {expected} was expected")


def _tokens(text: str) -> list[tuple[str, str]]:
    found, at, end = [], 0, len(text.rstrip())
    while at < end:
        match = TOKENS.match(text, at)
        if match is None or match.lastgroup is None:
            raise BadCondition(f"`{text[at:].strip()[:20]}` is not understood; as `vm-web-1.state.kind == \"Running\"`")
        found.append((match.lastgroup, match[match.lastgroup]))
        at = match.end()
    return found


def _follow(value: Any, path: list[str | int]) -> Any:
    """Through maps and lists, as msgspec.to_builtins gives them. `kind` is what a state or an event is."""
    for part in path:
        if isinstance(value, Mapping) and isinstance(part, str):
            value = value.get(part, value.get("type") if part == "kind" else None)
        elif isinstance(value, list | tuple) and isinstance(part, int):
            value = value[part] if part < len(value) else None
        else:
            return None
    return value


def _either(left: _Value, right: _Value) -> _Value:
    return lambda scene: bool(left(scene)) or bool(right(scene))


def _both(left: _Value, right: _Value) -> _Value:
    return lambda scene: bool(left(scene)) and bool(right(scene))
