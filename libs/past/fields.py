"""Where two values of messages differ, field by field. Values are as msgspec.to_builtins gives them. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple


class Absent:
    """In the place of a value that one side does not have."""

    def __repr__(self) -> str:
        return "(absent)"


ABSENT = Absent()


class Field(NamedTuple):
    """`path` as in `spec.disks[0].size`; before and after, or recorded and produced: ABSENT where one side has no such field."""

    path: str
    left: Any
    right: Any


def differing(left: Any, right: Any, path: str = "") -> Iterator[Field]:
    """The innermost places where the two differ, in the order of the left one's fields."""
    if left == right and type(left) is type(right):
        return
    if isinstance(left, dict) and isinstance(right, dict):
        for key in [*left, *(key for key in right if key not in left)]:
            below = f"{path}.{key}" if path else str(key)
            yield from differing(left.get(key, ABSENT), right.get(key, ABSENT), below)
    elif isinstance(left, list | tuple) and isinstance(right, list | tuple):
        for n in range(max(len(left), len(right))):
            one = left[n] if n < len(left) else ABSENT
            yield from differing(one, right[n] if n < len(right) else ABSENT, f"{path}[{n}]")
    else:
        yield Field(path, left, right)
