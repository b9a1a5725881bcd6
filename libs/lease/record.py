"""What lies in a shared pool's lease area, `<pool>/ha/`: `<node>.record`, written by that node's watchdog once a second, and
`<node>.mailbox`, letters to it. Each is one sector, written and read whole and past all caches:

    aSV-lease-1 CRC LENGTH\\n{JSON}\\0\\0…        CRC: eight hexadecimal digits, of the JSON

A sector that was torn has another checksum: it is read again, and proves nothing.
"""

from __future__ import annotations

import json
import re
from binascii import crc32
from typing import Any, NamedTuple

from libs.lease.effects import Letter

SECTOR_BYTES = 4096
FOLDER = "ha"
MAGIC = b"aSV-lease-1"
HEAD_BYTES_MAX = 64
DONE_BYTES_MAX = 3000
"""names in a record; a letter that asks for more does not fit either"""
_NAME = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?")


class Torn(ValueError):
    """What was read is no whole sector of ours."""


class Record(NamedTuple):
    """sequence: the boot-time clock when the write began, so that it rises over all watchdogs of one boot. own: a State.
    lease_us: how long the node lets a renewal count. acknowledged: the letter that it answered last; done: what it ended for it."""

    node: str
    boot_id: str
    epoch: int
    sequence: int
    own: str
    lease_us: int = 0
    guarded: int = 0
    acknowledged: int = 0
    done: tuple[str, ...] = ()


def file_of(node: str, kind: str) -> str:
    """The path below the pool; kind: `record` or `mailbox`. Raises ValueError for what is no name of a node."""
    if not _NAME.fullmatch(node):
        raise ValueError(f"{node!r} is no name of a node")
    return f"{FOLDER}/{node}.{kind}"


def sector_of(record: Record) -> bytes:
    while len(json.dumps(record.done)) > DONE_BYTES_MAX:
        record = record._replace(done=record.done[: len(record.done) // 2])
    return _packed(record._asdict())


def letter_sector(letter: Letter) -> bytes:
    """Raises ValueError for more VMs than a letter holds."""
    if len(json.dumps(letter.vms)) > DONE_BYTES_MAX:
        raise ValueError(f"{len(letter.vms)} VMs do not fit into a letter: name fewer, or none, which means all")
    return _packed(letter._asdict())


def read_record(sector: bytes) -> Record:
    """Raises Torn."""
    found = _unpacked(sector)
    try:
        return Record(
            str(found["node"]), str(found["boot_id"]), int(found["epoch"]), int(found["sequence"]), str(found["own"]),
            int(found["lease_us"]), int(found["guarded"]), int(found["acknowledged"]), tuple(map(str, found["done"])),
        )  # fmt: skip
    except (KeyError, TypeError, ValueError) as error:
        raise Torn(f"it is no record: {error!r}") from None


def read_letter(sector: bytes) -> Letter:
    """Raises Torn."""
    found = _unpacked(sector)
    try:
        return Letter(
            str(found["node"]),
            int(found["number"]),
            int(found["term"]),
            int(found["epoch"]),
            tuple(map(str, found["vms"])),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise Torn(f"it is no letter: {error!r}") from None


def _packed(what: dict[str, Any]) -> bytes:
    body = json.dumps(what, separators=(",", ":")).encode()
    sector = b"%s %08x %d\n%s" % (MAGIC, crc32(body), len(body), body)
    if len(sector) > SECTOR_BYTES:
        raise ValueError(f"{len(sector)} bytes do not fit into a sector of {SECTOR_BYTES}")
    return sector.ljust(SECTOR_BYTES, b"\0")


def _unpacked(sector: bytes) -> dict[str, Any]:
    head, _, rest = sector.partition(b"\n")
    words = head.split(b" ") if len(head) < HEAD_BYTES_MAX else []
    try:
        magic, crc, length = words
        body = rest[: int(length)]
        if magic != MAGIC or len(body) != int(length) or int(crc, 16) != crc32(body):
            raise ValueError("the checksum is another")
        found = json.loads(body)
    except ValueError as error:
        raise Torn(f"it is no whole sector of ours: {error}") from None
    if not isinstance(found, dict):
        raise Torn("it holds no object")
    return found
