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

from typing import Any

from libs.world.copies import LOOKS, SHARED, Copy, Inside, Joint, Make, Number, Parts


def branched[T](world: T) -> T:
    """Raises TypeError where something cannot be copied."""
    return Mould(world).cast()


class Mould[T]:
    """Of a world that does not move as long as it is used. Raises TypeError where something cannot be copied."""

    def __init__(self, world: T) -> None:
        walk = Walk()
        self._world, self._top = world, walk.number(world)
        walk.look_inside()
        self._shells, self._wholes = walk.shells, walk.wholes
        self._attributes, self._items = walk.attributes, walk.items

    def cast(self) -> T:
        if self._top is None:
            return self._world
        made = [copy(old) for copy, old in self._shells]
        made += [None] * len(self._wholes)
        for at, make, old, parts in self._wholes:
            made[at] = make(old, parts, made)
        for whose, name, at in self._attributes:
            setattr(made[whose], name, made[at])
        for whose, key, at in self._items:
            made[whose][key] = made[at]
        world: T = made[self._top]
        return world


class Walk:
    """Through a world, once."""

    def __init__(self) -> None:
        self.shells: list[tuple[Copy, Any]] = []
        self.wholes: list[tuple[Number, Make, Any, Parts]] = []
        self.attributes: list[Joint] = []
        self.items: list[Joint] = []
        self._numbers: dict[int, Number] = {}
        """by id; what has a number is kept alive by shells and wholes"""
        self._todo: list[tuple[Number, Inside, list[Joint]]] = []

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
        self.shells.append((copy, value))
        return number

    def later(self, number: Number, inside: Inside, joints: list[Joint]) -> Number:
        """What that one refers to is looked at in its turn: a world is deep."""
        self._todo.append((number, inside, joints))
        return number

    def whole(self, make: Make, value: Any, parts: Parts) -> Number:
        number = self._numbers[id(value)] = ~len(self.wholes)
        self.wholes.append((number, make, value, parts))
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
                    joints.append((number, place, at))
