"""A world that goes on in several ways: each is in the same state to the last detail, and shares with the others only what nothing
can change.

    mould = Mould(first)                     # looked at once: some milliseconds
    second = mould.cast()                    # a tenth of that, each time; `first` has not moved since
    second.net.random.seed(7)                # from here on another story

`branched(first)` is both at once. What is frozen (Structs, dataclasses, tuples of such, functions that close over nothing) is
shared. Everything else is copied once each, closures and bound methods among it, as the things to come are thunks. A class for
which that is wrong says so with `__branch__`: "share" (stateless). Generators and open files cannot be branched: TypeError names
them.

A walk through the world numbers what is to be copied. What can change is copied as it is, in one step of the interpreter's own, and
its references to other copies are set afterwards (`joints`). What cannot change but refers to a copy (a tuple, a function) is made
anew from its parts (`wholes`), each after those that it holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

from libs.world.copies import LOOKS, SHARED, Copy, Inside, Make, Number, Parts


def branched[T](world: T) -> T:
    """Raises TypeError where something cannot be copied."""
    return Mould(world).cast()


class Mould[T]:
    """Of a world that does not move as long as it is used. Raises TypeError where something cannot be copied."""

    def __init__(self, world: T) -> None:
        self._world = world
        self._walk = walk = Walk()
        self._top = walk.number(world)
        walk.look_inside()

    def cast(self) -> T:
        if self._top is None:
            return self._world
        walk = self._walk
        made = [copy(old) for copy, old in zip(walk.copies, walk.shells, strict=True)]
        made += [None] * len(walk.wholes)
        for at, make, old, parts in zip(count(-1, -1), walk.makes, walk.wholes, walk.held):  # one is endless
            made[at] = make(old, parts, made)
        for whose, name, at in walk.attributes:
            setattr(made[whose], name, made[at])
        for whose, key, at in walk.items:
            made[whose][key] = made[at]
        world: T = made[self._top]
        return world


class Joints:
    """Columns, as a list of tuples would take thrice the memory, which a cast reads from end to end."""

    def __init__(self) -> None:
        self.whose: list[Number] = []
        self.place: list[Any] = []
        self.at: list[Number] = []

    def __iter__(self) -> Iterator[tuple[Number, Any, Number]]:
        """(in which copy, place, whose copy is there)"""
        return zip(self.whose, self.place, self.at, strict=True)


class Walk:
    """Through a world, once."""

    def __init__(self) -> None:
        self.shells: list[Any] = []
        self.copies: list[Copy] = []
        """of each shell"""
        self.wholes: list[Any] = []
        self.makes: list[Make] = []
        self.held: list[Parts] = []
        """of each whole"""
        self.attributes = Joints()
        self.items = Joints()
        self._numbers: dict[int, Number] = {}
        """by id; what has a number is kept alive by shells and wholes"""
        self._todo: list[tuple[Number, Inside, Joints]] = []

    def number(self, value: Any) -> Number | None:
        """None: it is shared."""
        look = LOOKS[type(value)]
        if look is None:
            return None
        known = self._numbers.get(id(value))
        return known if known is not None else look(self, value)

    def shell(self, copy: Copy, value: Any) -> Number:
        """It can change."""
        number = self._numbers[id(value)] = len(self.shells)
        self.shells.append(value)
        self.copies.append(copy)
        return number

    def later(self, number: Number, inside: Inside, joints: Joints) -> Number:
        """What that one refers to is looked at in its turn: a world is deep."""
        self._todo.append((number, inside, joints))
        return number

    def whole(self, make: Make, value: Any, parts: Parts) -> Number:
        number = self._numbers[id(value)] = ~len(self.wholes)
        self.wholes.append(value)
        self.makes.append(make)
        self.held.append(parts)
        return number

    def parts(self, inside: Inside) -> list[tuple[Any, Number]]:
        """Those of them that are copies."""
        return [
            (place, at) for place, item in inside if type(item) not in SHARED and (at := self.number(item)) is not None
        ]

    def look_inside(self) -> None:
        known = self._numbers
        for number, inside, joints in self._todo:
            for place, item in inside:
                kind = type(item)
                if kind in SHARED:
                    continue
                at = known.get(id(item))
                if at is None and (look := LOOKS[kind]) is not None:
                    at = look(self, item)
                if at is not None:
                    joints.whose.append(number)
                    joints.place.append(place)
                    joints.at.append(at)
        known.clear()
        self._todo.clear()
