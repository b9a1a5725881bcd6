"""A world that goes on in two ways: `branched(world)` is a second one in the same state to the last detail, which shares with the
first only what nothing can change.

    first = prepared()                       # booted once
    second = branched(first)                 # about a millisecond
    second.net.random.seed(7)                # from here on another story

What is frozen (Structs, dataclasses, tuples of such, functions that close over nothing) is shared. Everything else is copied, once
each, closures and bound methods among it, as the things to come are thunks. A class for which that is wrong says so with
`__branch__`: "share" (stateless). Generators and open files cannot be branched: TypeError names them.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from dataclasses import is_dataclass
from enum import Enum
from functools import partial
from itertools import count
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
from typing import Any

import msgspec
import numpy as np

from libs.common.registry import Registry

type Memo = dict[int, Any]
type Copier = Callable[[Any, Memo], Any]

SHARED = (
    NoneType, bool, int, float, complex, str, bytes, frozenset, type, range, CodeType, ModuleType, GenericAlias, UnionType,
    MappingProxyType, Registry, np.dtype, np.generic, Enum, msgspec.Raw, msgspec.msgpack.Decoder, msgspec.msgpack.Encoder,
)  # fmt: skip


class _Copiers(dict[type, Copier | None]):
    """By class; None: shared."""

    def __missing__(self, kind: type) -> Copier | None:
        found = self[kind] = _copier(kind)
        return found


def branched[T](world: T) -> T:
    """Raises TypeError where something cannot be copied."""
    copied: T = _any(world, {})
    return copied


def _any(value: Any, memo: Memo) -> Any:
    copier = _copiers[type(value)]
    if copier is None:
        return value
    known = memo.get(id(value))
    return copier(value, memo) if known is None else known


# --- containers ------------------------------------------------------------------------------------------------------


def _all_shared(values: Any) -> bool:
    return all(_copiers[kind] is None for kind in set(map(type, values)))


def _list(value: list[Any], memo: Memo) -> list[Any]:
    shared = _all_shared(value)
    new: list[Any] = value.copy() if shared else []
    memo[id(value)] = new
    if not shared:
        new.extend([_any(item, memo) for item in value])
    return new


def _dict(value: dict[Any, Any], memo: Memo) -> dict[Any, Any]:
    """Keys are values: nobody changes them. Subclasses keep their other attributes."""
    memo[id(value)] = new = value.copy() if type(value) is dict else _empty(value, memo)
    if type(value) is dict and _all_shared(value.values()):
        return new
    for key, item in value.items():
        copier = _copiers[type(item)]
        new[key] = item if copier is None else _any(item, memo)
    return new


def _empty(value: dict[Any, Any], memo: Memo) -> dict[Any, Any]:
    kind: Any = type(value)
    if kind is defaultdict:
        return defaultdict(value.default_factory)  # type: ignore[attr-defined]
    if kind in (OrderedDict, Counter):
        fresh: dict[Any, Any] = kind()
        return fresh
    new: dict[Any, Any] = kind.__new__(kind)
    for name, item in getattr(value, "__dict__", {}).items():
        new.__dict__[name] = _any(item, memo)
    return new


def _set(value: set[Any], memo: Memo) -> set[Any]:
    memo[id(value)] = new = value.copy()
    return new


def _deque(value: deque[Any], memo: Memo) -> deque[Any]:
    new: deque[Any] = deque(maxlen=value.maxlen)
    memo[id(value)] = new
    new.extend([_any(item, memo) for item in value])
    return new


def _tuple(value: tuple[Any, ...], memo: Memo) -> tuple[Any, ...]:
    if _all_shared(value):
        return value
    made = [_any(item, memo) for item in value]
    new = value if all(a is b for a, b in zip(value, made, strict=True)) else tuple(made)
    memo[id(value)] = new
    return new


# --- code that is to run ---------------------------------------------------------------------------------------------


def _function(value: FunctionType, memo: Memo) -> FunctionType:
    cells, defaults, words = value.__closure__, value.__defaults__, value.__kwdefaults__
    if cells is None and (defaults is None or _all_shared(defaults)) and words is None:
        return value
    closure = None if cells is None else tuple([_any(cell, memo) for cell in cells])
    more = None if defaults is None else _tuple(defaults, memo)
    kept = all(a is b for a, b in zip(closure or (), cells or (), strict=True))  # cells compare by what is in them
    if kept and more is defaults and words is None:
        return value
    memo[id(value)] = new = FunctionType(value.__code__, value.__globals__, value.__name__, more, closure)
    if words is not None:
        new.__kwdefaults__ = {name: _any(item, memo) for name, item in words.items()}
    return new


def _cell(value: CellType, memo: Memo) -> CellType:
    try:
        inside = value.cell_contents
    except ValueError:
        return value
    if _copiers[type(inside)] is None:
        return value
    memo[id(value)] = new = CellType()
    new.cell_contents = _any(inside, memo)
    return new


def _method(value: MethodType, memo: Memo) -> MethodType:
    return MethodType(value.__func__, _any(value.__self__, memo))


def _builtin(value: BuiltinFunctionType, memo: Memo) -> Any:
    owner = value.__self__
    return value if _copiers[type(owner)] is None else getattr(_any(owner, memo), value.__name__)


def _partial(value: partial[Any], memo: Memo) -> partial[Any]:
    return partial(
        _any(value.func, memo), *[_any(a, memo) for a in value.args], **{k: _any(v, memo) for k, v in value.keywords.items()}
    )


def _random(value: Random, memo: Memo) -> Random:
    memo[id(value)] = new = Random()
    new.setstate(value.getstate())
    return new


def _array(value: Any, memo: Memo) -> Any:
    memo[id(value)] = new = value.copy()
    return new


def _count(value: Any, memo: Memo) -> Any:
    memo[id(value)] = new = count(*value.__reduce__()[1])
    return new


# --- objects ---------------------------------------------------------------------------------------------------------


def _slots_of(kind: type) -> list[str]:
    return [name for one in kind.__mro__ for name, made in vars(one).items() if isinstance(made, MemberDescriptorType)]


def _struct(kind: type[msgspec.Struct]) -> Copier:
    names = kind.__struct_fields__

    def copy(value: Any, memo: Memo) -> Any:
        memo[id(value)] = new = value.__copy__()
        for name in names:
            item = getattr(value, name)
            if _copiers[type(item)] is not None:
                setattr(new, name, _any(item, memo))
        return new

    return copy


def _object(kind: type) -> Copier:
    """By its slots and its dictionary."""
    slots = _slots_of(kind)
    make, missing = object.__new__, object()

    def copy(value: Any, memo: Memo) -> Any:
        new: Any = make(kind)
        memo[id(value)] = new
        for name in slots:
            item = getattr(value, name, missing)
            if item is not missing:
                object.__setattr__(new, name, item if _copiers[type(item)] is None else _any(item, memo))
        inside = getattr(value, "__dict__", None)
        if inside:
            new.__dict__.update({n: i if _copiers[type(i)] is None else _any(i, memo) for n, i in inside.items()})
        return new

    return copy


_KINDS: dict[type, Copier] = {
    list: _list, deque: _deque, set: _set, tuple: _tuple, FunctionType: _function, CellType: _cell, MethodType: _method,
    BuiltinFunctionType: _builtin, partial: _partial, Random: _random, np.ndarray: _array, count: _count,
}  # fmt: skip


def _copier(kind: type) -> Copier | None:
    if issubclass(kind, SHARED) or getattr(kind, "__branch__", "") == "share":
        return None
    if kind in _KINDS:
        return _KINDS[kind]
    if issubclass(kind, dict):
        return _dict
    if issubclass(kind, tuple):
        return None if getattr(kind, "_fields", None) is None else _named
    if issubclass(kind, msgspec.Struct):
        return None if kind.__struct_config__.frozen else _struct(kind)
    if is_dataclass(kind) and getattr(kind, "__dataclass_params__").frozen:  # noqa: B009
        return None
    if issubclass(kind, GeneratorType) or kind.__module__ in ("_io", "_thread"):
        raise TypeError(f"a world that holds a {kind.__qualname__} cannot be branched")
    return _object(kind)


def _named(value: Any, memo: Memo) -> Any:
    return value if _all_shared(value) else type(value)(*[_any(item, memo) for item in value])


_copiers = _Copiers()
