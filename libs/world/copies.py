"""How each class is copied when a world is branched (branch.py): a `Look` gives a value its number in a walk, and says what
lies inside. By class: `LOOKS[type(value)]`, None where it is shared.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import is_dataclass
from enum import Enum
from functools import partial
from itertools import count
from operator import attrgetter, methodcaller
from random import Random
from types import (
    BuiltinFunctionType,
    CellType,
    CodeType,
    FunctionType,
    GeneratorType,
    GenericAlias,
    MappingProxyType,
    MemberDescriptorType,
    MethodType,
    ModuleType,
    NoneType,
    UnionType,
)
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from libs.common.registry import Registry
from libs.world.arrays import array

if TYPE_CHECKING:
    from libs.world.branch import Walk

type Number = int
"""of a copy: from 0 on what can change, from -1 down what is made anew"""
type Copy = Callable[[Any], Any]
type Parts = Sequence[tuple[Any, Number]]
"""(place, whose copy is there)"""
type Inside = Iterable[tuple[Any, Any]]
"""(place, what is there)"""
type Make = Callable[[Any, Parts, list[Any]], Any]

CONSTANT = (
    NoneType, bool, int, float, complex, str, bytes, frozenset, type, range, CodeType, ModuleType, GenericAlias, UnionType,
    MappingProxyType, Registry, Exception, np.dtype, np.generic, Enum, msgspec.Raw, msgspec.msgpack.Decoder,
    msgspec.msgpack.Encoder,
)  # fmt: skip


type Look = Callable[[Walk, Any], Number | None]


class _Looks(dict[type, Look | None]):
    """By class: how one of it gets a number. None: it is shared."""

    def __missing__(self, kind: type) -> Look | None:
        found = self[kind] = _look(kind)
        if found is None:
            SHARED.add(kind)
        return found


LOOKS = _Looks()
SHARED: set[type] = set()
"""classes that are known to be shared: a shorter way than by LOOKS"""


def _all_shared(values: Iterable[Any]) -> bool:
    kinds = set(map(type, values))
    return kinds <= SHARED or all(LOOKS[kind] is None for kind in kinds)


def _look(kind: type) -> Look | None:
    if issubclass(kind, CONSTANT) or getattr(kind, "__branch__", "") == "share":
        return None
    if kind in _SPECIAL:
        return _SPECIAL[kind]
    if issubclass(kind, tuple):
        return _tuple if hasattr(kind, "_fields") else None
    if kind in _COPIES:
        return _container(kind)
    if issubclass(kind, dict):
        return _subdict
    if issubclass(kind, msgspec.Struct):
        return None if kind.__struct_config__.frozen else _object(kind, kind.__struct_fields__, shallow)
    if is_dataclass(kind) and getattr(kind, "__dataclass_params__").frozen:  # noqa: B009
        return None
    odd = issubclass(kind, GeneratorType) or kind.__module__ in ("_io", "_thread")
    if odd or kind.__setattr__ is not object.__setattr__:
        raise TypeError(f"a world that holds a {kind.__qualname__} cannot be branched")
    slots = _slots_of(kind)
    return _loose if "__dict__" in dir(kind) else _object(kind, slots, _straight(kind, slots))


# --- what can change -------------------------------------------------------------------------------------------------


def _random(walk: Walk, value: Random) -> Number:
    state = value.getstate()

    def copy(_: Random) -> Random:
        new = Random(0)
        new.setstate(state)
        return new

    return walk.shell(copy, value)


shallow = methodcaller("__copy__")

_COPIES: dict[type, Copy] = {
    dict: dict.copy, defaultdict: defaultdict.copy, OrderedDict: OrderedDict.copy, list: list.copy, deque: deque.copy,
    set: set.copy, count: lambda value: count(*value.__reduce__()[1]),
}  # fmt: skip


def _container(kind: type) -> Look:
    """Keys are values: nobody changes them."""
    copy = _COPIES[kind]

    def mapping(walk: Walk, value: dict[Any, Any]) -> Number:
        number = walk.shell(copy, value)
        return number if not value or _all_shared(value.values()) else walk.later(number, value.items(), walk.items)

    def sequence(walk: Walk, value: Sequence[Any]) -> Number:
        number = walk.shell(copy, value)
        return number if not value or _all_shared(value) else walk.later(number, enumerate(value), walk.items)

    def flat(walk: Walk, value: Any) -> Number:
        return walk.shell(copy, value)

    return mapping if issubclass(kind, dict) else sequence if kind in (list, deque) else flat


def _subdict(walk: Walk, value: dict[Any, Any]) -> Number:
    """A dictionary with attributes of its own."""
    number = walk.later(walk.shell(_subdict_of, value), value.items(), walk.items)
    return walk.later(number, value.__dict__.items(), walk.attributes)


def _subdict_of(value: dict[Any, Any]) -> dict[Any, Any]:
    kind = type(value)
    new: dict[Any, Any] = kind.__new__(kind)
    dict.update(new, value)
    new.__dict__.update(value.__dict__)
    return new


def _object(kind: type, names: Sequence[str], copy: Copy) -> Look:
    """One whose attributes are known from its class."""
    if not names:
        return lambda walk, value: walk.shell(copy, value)
    fetch = attrgetter(*names) if len(names) > 1 else lambda value: (getattr(value, names[0]),)

    def look(walk: Walk, value: Any) -> Number:
        try:
            found = fetch(value)
        except AttributeError:
            return _loose(walk, value)
        return walk.later(walk.shell(copy, value), zip(names, found, strict=True), walk.attributes)

    return look


def _loose(walk: Walk, value: Any) -> Number:
    """One with a dictionary, or that lacks some of its slots."""
    slots = [name for name in _slots_of(type(value)) if hasattr(value, name)]
    names = (*slots, *getattr(value, "__dict__", ()))
    copy = _straight(type(value), names)
    return walk.later(walk.shell(copy, value), [(name, getattr(value, name)) for name in names], walk.attributes)


def _slots_of(kind: type) -> tuple[str, ...]:
    if (known := _slots.get(kind)) is None:
        known = _slots[kind] = tuple(
            name for one in kind.__mro__ for name, made in vars(one).items() if isinstance(made, MemberDescriptorType)
        )
    return known


_slots: dict[type, tuple[str, ...]] = {}
_straights: dict[tuple[type, tuple[str, ...]], Copy] = {}


def _straight(kind: type, names: tuple[str, ...]) -> Copy:
    """Attribute by attribute, as straight code."""
    if (made := _straights.get((kind, names))) is not None:
        return made
    lines = ["def copy(value):", "  new = make(kind)", *[f"  new.{name} = value.{name}" for name in names]]
    lines.append("  return new")
    known: dict[str, Any] = {"make": object.__new__, "kind": kind}
    exec("\n".join(lines), known)  # noqa: S102  # as dataclasses make their methods: twice as fast as a loop
    _straights[kind, names] = copy = known["copy"]
    return copy  # type: ignore[no-any-return]


def _cell(walk: Walk, value: CellType) -> Number | None:
    try:
        inside = value.cell_contents
    except ValueError:
        return None
    if LOOKS[type(inside)] is None:
        return None
    return walk.later(walk.shell(_cell_of, value), [("cell_contents", inside)], walk.attributes)


def _cell_of(value: CellType) -> CellType:
    return CellType(value.cell_contents)


# --- what cannot change, and refers to what can ------------------------------------------------------------------------


def _tuple(walk: Walk, value: tuple[Any, ...]) -> Number | None:
    parts = walk.parts(enumerate(value))
    return walk.whole(_tuple_of if type(value) is tuple else _named_of, value, parts) if parts else None


def _tuple_of(old: tuple[Any, ...], parts: Parts, made: list[Any]) -> tuple[Any, ...]:
    items = list(old)
    for place, at in parts:
        items[place] = made[at]
    return tuple(items)


def _named_of(old: Any, parts: Parts, made: list[Any]) -> Any:
    return type(old)(*_tuple_of(old, parts, made))


def _function(walk: Walk, value: FunctionType) -> Number | None:
    if value.__closure__ is None and value.__defaults__ is None and value.__kwdefaults__ is None:
        return None
    if value.__defaults__ is None and value.__kwdefaults__ is None:
        parts = walk.parts(enumerate(value.__closure__ or ()))
        return walk.whole(_closure_of, value, parts) if parts else None
    parts = walk.parts((word, getattr(value, word)) for word in ("__closure__", "__defaults__", "__kwdefaults__"))
    return walk.whole(_function_of, value, parts) if parts else None


def _closure_of(old: FunctionType, parts: Parts, made: list[Any]) -> FunctionType:
    cells = list(old.__closure__ or ())
    for place, at in parts:
        cells[place] = made[at]
    return FunctionType(old.__code__, old.__globals__, None, None, tuple(cells))


def _function_of(old: FunctionType, parts: Parts, made: list[Any]) -> FunctionType:
    new = {word: made[at] for word, at in parts}
    defaults, closure = new.get("__defaults__", old.__defaults__), new.get("__closure__", old.__closure__)
    function = FunctionType(old.__code__, old.__globals__, None, defaults, closure)
    function.__kwdefaults__ = new.get("__kwdefaults__", old.__kwdefaults__)
    return function


def _method(walk: Walk, value: MethodType) -> Number | None:
    owner = walk.number(value.__self__)
    return None if owner is None else walk.whole(_method_of, value, ((None, owner),))


def _method_of(old: MethodType, parts: Parts, made: list[Any]) -> MethodType:
    return MethodType(old.__func__, made[parts[0][1]])


def _builtin(walk: Walk, value: BuiltinFunctionType) -> Number | None:
    owner = walk.number(value.__self__)
    return None if owner is None else walk.whole(_builtin_of, value, ((None, owner),))


def _builtin_of(old: BuiltinFunctionType, parts: Parts, made: list[Any]) -> Any:
    return getattr(made[parts[0][1]], old.__name__)


def _partial(walk: Walk, value: partial[Any]) -> Number | None:
    parts = walk.parts([(0, value.func), *enumerate(value.args, 1), *value.keywords.items()])
    return walk.whole(_partial_of, value, parts) if parts else None


def _partial_of(old: partial[Any], parts: Parts, made: list[Any]) -> partial[Any]:
    items: list[Any] = [old.func, *old.args]
    words = dict(old.keywords)
    for place, at in parts:
        if isinstance(place, str):
            words[place] = made[at]
        else:
            items[place] = made[at]
    return partial(items[0], *items[1:], **words)


_SPECIAL: dict[type, Look] = {
    tuple: _tuple, FunctionType: _function, MethodType: _method, BuiltinFunctionType: _builtin, partial: _partial,
    CellType: _cell, Random: _random, np.ndarray: array,
}  # fmt: skip
