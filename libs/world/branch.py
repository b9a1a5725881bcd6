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
    MappingProxyType, Registry, Exception, np.dtype, np.generic, Enum, msgspec.Raw, msgspec.msgpack.Decoder,
    msgspec.msgpack.Encoder,
)  # fmt: skip


class _Copiers(dict[type, Copier | None]):
    """By class; None: shared. A copier looks first whether it has made that copy."""

    def __missing__(self, kind: type) -> Copier | None:
        found = self[kind] = _copier(kind)
        if found is None:
            _shared.add(kind)
        return found


_shared: set[type] = set()
"""classes that are known to be shared: a shorter way than by _copiers"""


def branched[T](world: T) -> T:
    """Raises TypeError where something cannot be copied."""
    copied: T = _any(world, {})
    return copied


def _any(value: Any, memo: Memo) -> Any:
    copier = _copiers[type(value)]
    return value if copier is None else copier(value, memo)


# --- containers ------------------------------------------------------------------------------------------------------


def _all_shared(values: Any) -> bool:
    kinds = set(map(type, values))
    return kinds <= _shared or all(_copiers[kind] is None for kind in kinds)


def _list(value: list[Any], memo: Memo) -> Any:
    if (known := memo.get(id(value))) is not None:
        return known
    shared = not value or _all_shared(value)
    new: list[Any] = value.copy() if shared else []
    memo[id(value)] = new
    if not shared:
        new.extend([item if type(item) in _shared else _any(item, memo) for item in value])
    return new


def _dict(value: dict[Any, Any], memo: Memo) -> Any:
    """Keys are values: nobody changes them. Subclasses keep their other attributes."""
    if (known := memo.get(id(value))) is not None:
        return known
    plain = type(value) is dict
    memo[id(value)] = new = value.copy() if plain else _empty(value, memo)
    if not value or (plain and _all_shared(value.values())):
        return new
    for key, item in value.items():
        new[key] = item if type(item) in _shared else _any(item, memo)
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


def _set(value: set[Any], memo: Memo) -> Any:
    if (known := memo.get(id(value))) is None:
        known = memo[id(value)] = value.copy()
    return known


def _deque(value: deque[Any], memo: Memo) -> Any:
    if (known := memo.get(id(value))) is not None:
        return known
    new: deque[Any] = deque(maxlen=value.maxlen)
    memo[id(value)] = new
    new.extend([_any(item, memo) for item in value])
    return new


def _tuple(value: tuple[Any, ...], memo: Memo) -> tuple[Any, ...]:
    if not value or _all_shared(value):
        return value
    made = [item if type(item) in _shared else _any(item, memo) for item in value]
    return value if all(a is b for a, b in zip(value, made, strict=True)) else tuple(made)


# --- code that is to run ---------------------------------------------------------------------------------------------


def _function(value: FunctionType, memo: Memo) -> Any:
    cells, defaults, words = value.__closure__, value.__defaults__, value.__kwdefaults__
    if cells is None and (defaults is None or _all_shared(defaults)) and words is None:
        return value
    if (known := memo.get(id(value))) is not None:
        return known
    closure = None if cells is None else tuple([_cell(cell, memo) for cell in cells])
    more = None if defaults is None else _tuple(defaults, memo)
    kept = all(a is b for a, b in zip(closure or (), cells or (), strict=True))  # cells compare by what is in them
    if kept and more is defaults and words is None:
        return value
    memo[id(value)] = new = FunctionType(value.__code__, value.__globals__, value.__name__, more, closure)
    if words is not None:
        new.__kwdefaults__ = {name: _any(item, memo) for name, item in words.items()}
    return new


def _cell(value: CellType, memo: Memo) -> Any:
    if (known := memo.get(id(value))) is not None:
        return known
    try:
        inside = value.cell_contents
    except ValueError:
        return value
    if type(inside) in _shared or _copiers[type(inside)] is None:
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


def _random(value: Random, memo: Memo) -> Any:
    if (known := memo.get(id(value))) is None:
        known = memo[id(value)] = Random()
        known.setstate(value.getstate())
    return known


def _array(value: Any, memo: Memo) -> Any:
    if (known := memo.get(id(value))) is None:
        known = memo[id(value)] = value.copy()
    return known


def _count(value: Any, memo: Memo) -> Any:
    if (known := memo.get(id(value))) is None:
        known = memo[id(value)] = count(*value.__reduce__()[1])
    return known


# --- objects ---------------------------------------------------------------------------------------------------------


def _slots_of(kind: type) -> list[str]:
    return [name for one in kind.__mro__ for name, made in vars(one).items() if isinstance(made, MemberDescriptorType)]


def _struct(kind: type[msgspec.Struct]) -> Copier:
    names = kind.__struct_fields__

    def copy(value: Any, memo: Memo) -> Any:
        if (known := memo.get(id(value))) is not None:
            return known
        memo[id(value)] = new = value.__copy__()
        for name in names:
            item = getattr(value, name)
            if type(item) not in _shared:
                setattr(new, name, _any(item, memo))
        return new

    return copy


def _object(kind: type) -> Copier:
    """By its slots and its dictionary. One that lacks some of its slots, or does not let them be set, is copied the slow way."""
    slots, has_dict = _slots_of(kind), "__dict__" in dir(kind)
    slowly = _slow(kind, slots)
    if "__setattr__" in {name for one in kind.__mro__[:-1] for name in vars(one)}:
        return slowly
    lines = ["def copy(value, memo):", "  known = memo.get(id(value))", "  if known is not None: return known"]
    lines += ["  new = make(kind)", "  try:"]
    lines += [f"    s{n} = value.{name}" for n, name in enumerate(slots)] or ["    pass"]
    lines += ["  except AttributeError: return slowly(value, memo)", "  memo[id(value)] = new"]
    for n, name in enumerate(slots):
        lines.append(f"  new.{name} = s{n} if type(s{n}) in shared else any_(s{n}, memo)")
    if has_dict:
        lines.append("  new.__dict__.update({n: i if type(i) in shared else any_(i, memo) for n, i in value.__dict__.items()})")
    lines.append("  return new")
    names: dict[str, Any] = {"make": object.__new__, "kind": kind, "shared": _shared, "any_": _any, "slowly": slowly}
    exec("\n".join(lines), names)  # noqa: S102  # as dataclasses make their methods: straight code is twice as fast
    made: Copier = names["copy"]
    return made


def _slow(kind: type, slots: list[str]) -> Copier:
    missing = object()

    def copy(value: Any, memo: Memo) -> Any:
        if (known := memo.get(id(value))) is not None:
            return known
        new: Any = object.__new__(kind)
        memo[id(value)] = new
        for name in slots:
            item = getattr(value, name, missing)
            if item is not missing:
                object.__setattr__(new, name, _any(item, memo))
        if inside := getattr(value, "__dict__", None):
            new.__dict__.update({name: _any(item, memo) for name, item in inside.items()})
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
