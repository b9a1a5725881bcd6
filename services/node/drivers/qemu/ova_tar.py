"""The members of an appliance's tar file, read by ourselves: the standard library would read a header of any claimed size into
memory, and follow links. Only plain files with plain names are taken.
"""

from __future__ import annotations

import os
import re

import msgspec

from services.node.drivers import BadImage

BLOCK = 512
MEMBERS_MAX = 64
EXTRA_BYTES_MAX = 64 << 10
"""of a header that only says more about the next one"""
NAME = re.compile(r"[A-Za-z0-9_()\[\]{}@+=~, -][A-Za-z0-9._()\[\]{}@+=~, -]{0,126}")
PLAIN, LONG_NAME, MORE, MORE_FOR_ALL = (b"0", b"\0"), b"L", b"x", b"g"
WHY = "an OVA is an uncompressed tar of plain files"


class Member(msgspec.Struct, frozen=True):
    """at: where its bytes begin in the tar."""

    name: str
    at: int
    size: int


def members(fd: int, file_bytes: int) -> dict[str, Member]:
    """By name. Raises BadImage for all that an appliance does not need."""
    found: dict[str, Member] = {}
    at, name, size = 0, "", -1
    while at + BLOCK <= file_bytes:
        head = os.pread(fd, BLOCK, at)
        at += BLOCK
        if not head.strip(b"\0"):
            break
        _check_sum(head)
        kind = head[156:157]
        own = _number(head[124:136])
        if kind in (LONG_NAME, MORE, MORE_FOR_ALL):
            name, size = _more(_extra(fd, at, own), kind, name, size)
        else:
            member = Member(name or _text(head[0:100]), at, own if size < 0 else size)
            own = member.size
            _take(found, member, kind, _text(head[345:500]), file_bytes)
            name, size = "", -1
        at += -(-own // BLOCK) * BLOCK
    if not found:
        raise BadImage(f"the file holds nothing: {WHY}")
    return found


def _take(found: dict[str, Member], member: Member, kind: bytes, prefix: str, file_bytes: int) -> None:
    name = member.name
    if kind not in PLAIN:
        raise BadImage(f"{name[:80]!r} in the OVA is no plain file (type {kind!r}): {WHY}, without links and folders")
    if prefix or NAME.fullmatch(name) is None:
        whole = f"{prefix}/{name}" if prefix else name
        raise BadImage(f"{whole[:80]!r} in the OVA is no plain name: files lie in no folder there")
    if name in found:
        raise BadImage(f"{name!r} is twice in the OVA: which of them is meant cannot be known")
    if member.at + member.size > file_bytes:
        raise BadImage(f"the OVA ends inside {name!r}: it was cut off, fetch it again")
    if len(found) >= MEMBERS_MAX:
        raise BadImage(f"the OVA holds more than {MEMBERS_MAX} files")
    found[name] = member


def _check_sum(head: bytes) -> None:
    said = _number(head[148:156])
    if said != sum(head[:148]) + 8 * ord(" ") + sum(head[156:]):
        raise BadImage(f"the file is not a tar, or is damaged (a header's sum is wrong): {WHY}")


def _number(field: bytes) -> int:
    """Octal digits, or binary where the first bit is set."""
    if field[:1] >= b"\x80":
        if field[0] != 0x80:
            raise BadImage(f"the file is not a tar, or is damaged (a number is below zero): {WHY}")
        return int.from_bytes(field[1:])
    text = field.strip(b"\0 ")
    if re.fullmatch(rb"[0-7]*", text) is None:
        raise BadImage(f"the file is not a tar, or is damaged (a number is {field[:12]!r}): {WHY}")
    return int(text or b"0", 8)


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("utf-8", "replace")


def _extra(fd: int, at: int, size: int) -> bytes:
    if size > EXTRA_BYTES_MAX:
        raise BadImage(f"a header of the OVA has {size} bytes; at most {EXTRA_BYTES_MAX} are read")
    data = os.pread(fd, size, at)
    if len(data) < size:
        raise BadImage("the OVA ends inside a header: it was cut off, fetch it again")
    return data


def _more(data: bytes, kind: bytes, name: str, size: int) -> tuple[str, int]:
    """What it says of the next member."""
    if kind == LONG_NAME:
        return _text(data), size
    for key, value in re.findall(rb"^\d+ (\w+)=(.*)$", data, re.MULTILINE) if kind == MORE else ():
        if key == b"path":
            name = value.decode("utf-8", "replace")
        elif key == b"size":
            size = int(value) if value.isdigit() else 0
    return name, size
