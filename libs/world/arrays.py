"""How arrays are copied when a world is branched (copies.py): numpy's windows into others stay such."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from libs.world.branch import Walk
    from libs.world.copies import Make, Number


def array(walk: Walk, value: np.ndarray[Any, Any]) -> Number:
    """One that looks into another does so in the branch: what is written to the one is seen in the other."""
    whole = value.base
    if not isinstance(whole, np.ndarray):
        return walk.shell(_array_of, value)
    number = walk.number(whole)
    assert number is not None and whole.flags.forc, "windows into an array with gaps cannot be branched"
    return walk.whole(_window(value, _address(value) - _address(whole)), value, ((None, number),))


def _array_of(old: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return old.copy("K")


def _address(value: np.ndarray[Any, Any]) -> int:
    return int(value.__array_interface__["data"][0])


def _window(value: np.ndarray[Any, Any], offset: int) -> Make:
    """At the same place: numpy has every window look into the array that owns the memory, which is copied with its layout."""
    shape, dtype, strides = value.shape, value.dtype, value.strides
    return lambda old, parts, made: np.ndarray(shape, dtype, made[parts[0][1]], offset, strides)
