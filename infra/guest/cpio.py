"""A `newc` cpio archive as the kernel unpacks it, written without touching the file system.

Owners are root, times are zero and names are sorted, so that the same content gives the same bytes; device nodes can be
written by an ordinary user.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

BLOCK = 512


@dataclass(frozen=True, slots=True)
class Entry:
    """One object. mode: type and permission bits; data: the content, or a symlink's target; device: (major, minor)."""

    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


def file(data: bytes, *, executable: bool = False) -> Entry:
    return Entry(stat.S_IFREG | (0o755 if executable else 0o644), data)


def link(target: str) -> Entry:
    return Entry(stat.S_IFLNK | 0o777, target.encode())


def folder(mode: int = 0o755) -> Entry:
    return Entry(stat.S_IFDIR | mode)


def character_device(major: int, minor: int, mode: int = 0o600) -> Entry:
    return Entry(stat.S_IFCHR | mode, device=(major, minor))


def archive(entries: Mapping[str, Entry]) -> bytes:
    """The archive of `entries` (path without a leading slash -> entry). Missing parent folders are added."""
    whole = _with_parents(entries)
    out = bytearray()
    for number, name in enumerate(sorted(whole), start=1):
        out += _record(number, name, whole[name])
    out += _record(0, "TRAILER!!!", Entry(0))
    out += bytes(-len(out) % BLOCK)
    return bytes(out)


def _with_parents(entries: Mapping[str, Entry]) -> dict[str, Entry]:
    whole = dict(entries)
    for name in entries:
        for parent in _parents(name):
            whole.setdefault(parent, folder())
    return whole


def _parents(name: str) -> Iterator[str]:
    return (str(p) for p in PurePosixPath(name).parents if str(p) != ".")


def _record(number: int, name: str, entry: Entry) -> bytes:
    raw = name.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    major, minor = entry.device
    fields = (number, entry.mode, 0, 0, links, 0, len(entry.data), 0, 0, major, minor, len(raw), 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + raw
    return _padded(head) + _padded(entry.data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
