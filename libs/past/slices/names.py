"""Other names of the same shape, in the same order. Pure: all chance is in the key.

A name becomes another word that is valid wherever it was; an address an address, a MAC a MAC, digests, keys and files likewise.
Deciders break ties by order (the first node by name, pools sorted by their words), so of each shape the new ones are dealt out in
the order of the old. That tells which name came before which, and nothing else of them.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable, Collection, Iterable
from hashlib import sha256

KEPT = frozenset({"default", "user"})
"""names that mean something to the code: the project and the pool that are there from the start, the network that is none"""
_DEVICE = re.compile(r"(disk|nic|cd)\d+")
"""how the code itself counts devices"""

SHAPES: dict[str, re.Pattern[str]] = {
    "uuid": re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"),
    "mac": re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}"),
    "hex": re.compile(r"(?=.*\d)[0-9a-f]{8,}"),
    "ipv4": re.compile(r"\d{1,3}(\.\d{1,3}){3}"),
    "ipv6": re.compile(r"(?=.*:.*:)[0-9a-f:]+"),
    "key": re.compile(r"[A-Z2-7]{40,}"),
    "base64": re.compile(r"[A-Za-z0-9+/=]{40,}"),
    "text": re.compile(r".*\s.*", re.DOTALL),
}
"""the first that fits; else it is a label"""
SHAPES_OF_PARTS = (
    (re.compile(r"([a-z0-9+-]+://)([^/:@]+)(.*)", re.DOTALL), (1,)),  # a URL: of its path nothing is kept
    (re.compile(r"(\[)([0-9a-f:]+)(\]:\d+)"), (0, 2)),
    (re.compile(r"()([^:\s]+)(:\d+)"), (0, 2)),  # HOST:PORT
    (re.compile(r"(asv-)([0-9a-f]{8,})()"), (0, 2)),  # a disk's serial
    (re.compile(r"(ssh-[a-z0-9-]+ )(\S+)(.*)", re.DOTALL), (0,)),
    (re.compile(r"()([^\s/]+?)((?:\.(?:s\d+-\d+|qcow2|raw|img|iso|vars|vmdk|vhdx?|ova|fd|gz))+)"), (0, 2)),  # a file, of a snapshot
)
"""what is made of parts: the second is renamed, of the others those that are named are kept"""


class Names:
    """`rename` gives the new name of anything that was among the old ones. key: whoever has it and the old names can tell which is
    which; the same key gives the same names for the same log. objects: names of VMs, nodes …, whatever they look like."""

    def __init__(self, key: bytes, old: Iterable[str], objects: Collection[str] = ()) -> None:
        self._key, self._objects = key, frozenset(objects)
        self.used: set[str] = set()
        """names that were in something that was said, not made"""
        self.learned: dict[str, str] = {}
        """what the code itself made of other names: file names, serials, sentences"""
        parts = {part for name in old if not self._constant(name) for part in _parts(name)}
        self._old = parts
        self._new: dict[str, str] = {}
        by_shape: dict[str, list[str]] = {}
        for part in sorted(parts):
            by_shape.setdefault(self._shape(part), []).append(part)
        for shape, sorted_parts in by_shape.items():
            self._deal(shape, sorted_parts)

    def rename(self, name: str) -> str:
        found = self.learned.get(name)
        return found if found is not None else self._whole(name)

    def pinned(self, name: str) -> bool:
        """A label: it stays what it is once it was used, wherever it came from."""
        return name in self._new and self._shape(name) == "label"

    def table(self) -> dict[str, str]:
        """New names by old ones."""
        return {old: new for old, new in (self._new | self.learned).items() if old != new}

    def _whole(self, name: str) -> str:
        if self._constant(name):
            return name
        for pattern, kept in SHAPES_OF_PARTS:
            if (match := pattern.fullmatch(name)) is not None:
                first, middle, last = match.groups()
                new = self._new.get(middle) or self._one(self._shape(middle), middle)
                return (first if 0 in kept or 1 in kept else "") + new + (last if 2 in kept else "")
        return self._new.get(name) or self._one(self._shape(name), name)

    def _shape(self, part: str) -> str:
        """An object's name keeps its place among those of the others, though it be of digits only."""
        return "label" if part in self._objects else _class(part)

    def _constant(self, name: str) -> bool:
        return not name or name in KEPT or bool(_DEVICE.fullmatch(name) and name not in self._objects)

    def _deal(self, shape: str, old: list[str]) -> None:
        """In order; labels between the names that are kept."""
        if shape != "label":
            made = self._made(shape, old, lambda name: self._one(shape, name))
            self._new.update(zip(old, made, strict=True))
            return
        for low, high in _between(sorted(KEPT)):
            part = [name for name in old if low < name < (high or "\x7f")]
            first = [c for c in "abcdefghijklmnopqrstuvwxyz" if (not low or c > low[0]) and (not high or c < high[0])]

            def label(name: str, first: list[str] = first) -> str:
                digest = self._digest("label", name)
                return first[digest[0] % len(first)] + "".join(_ALPHABET[b % len(_ALPHABET)] for b in digest[1:7])

            self._new.update(zip(part, self._made(shape, part, label), strict=True))

    def _made(self, shape: str, old: list[str], make: Callable[[str], str]) -> list[str]:
        """As many as there are old ones, sorted; none twice, none that is an old one. What the next is made from is the
        name before, so that it comes to an end."""
        made: set[str] = set()
        for name in old:
            new = seed = name
            while new in made or new in self._old or new == name:
                seed, new = f"{seed}'", make(seed)
            made.add(new)
        return sorted(made)

    def _one(self, shape: str, name: str) -> str:
        digest = self._digest(shape, name)
        hexes = digest.hex()
        match shape.partition(" ")[0]:
            case "uuid":
                return f"{hexes[:8]}-{hexes[8:12]}-8{hexes[12:15]}-8{hexes[15:18]}-{hexes[18:30]}"
            case "mac":
                return f"52:54:00:{hexes[:2]}:{hexes[2:4]}:{hexes[4:6]}"
            case "hex":
                return _long(hexes, len(name))
            case "ipv4":
                return f"10.{digest[0]}.{digest[1]}.{digest[2]}"
            case "ipv6":
                return f"fd00::{hexes[:4]}:{hexes[4:8]}:{hexes[8:12]}"
            case "key":
                return _long("".join(_BASE32[b % 32] for b in digest), len(name))
            case "base64":
                return _long(hexes, len(name))
            case "text":
                return f"(left out: {hexes[:6]})"
            case _:
                return "x" + "".join(_ALPHABET[b % len(_ALPHABET)] for b in digest[:7])

    def text(self, said: str) -> str:
        """What stands where it was said; not the same for another text."""
        found = self.learned.get(said)
        return found if found is not None else self._one("text", said)

    def _digest(self, shape: str, name: str) -> bytes:
        return hmac.digest(self._key, f"{shape}\n{name}".encode(), sha256)


_ALPHABET = "bcdfghjkmnpqrstvwxz23456789"
"""no vowels: no word comes about by chance"""
_OF_LENGTH = ("hex", "key", "base64")
_BASE32 = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"


def _long(text: str, length: int) -> str:
    return (text * (length // len(text) + 1))[:length]


def _between(kept: list[str]) -> list[tuple[str, str]]:
    return list(zip(["", *kept], [*kept, ""], strict=True))


def _class(part: str) -> str:
    shape = next((shape for shape, pattern in SHAPES.items() if pattern.fullmatch(part)), "label")
    return f"{shape} {len(part)}" if shape in _OF_LENGTH else shape


def _parts(name: str) -> tuple[str, ...]:
    for pattern, _ in SHAPES_OF_PARTS:
        if (match := pattern.fullmatch(name)) is not None:
            return (match.group(2),)
    return (name,)
