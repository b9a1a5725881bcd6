"""What a writer's disk holds (`writer.sh`), and whether one history of one writer at a time explains it. Pure.

A record is a block of 512 bytes, a line of text:

    asv-record VM BOOT GENERATION LANE COUNT BEFORE_LANE BEFORE_COUNT MD5

Each boot of a guest begins a lane behind what it finds on the disk, and each record names the one before it. So the records are one
chain. Two writers at once make it fork: an earlier boot's record that the later one did not see when it began, a lane of two
boots, a head that another has written. What the older QEMU wrote late is such a record, too, whichever guest ran when.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import md5

BLOCK = 512
FIRST = 128
"""the block where lane 1 begins"""
LANE_BLOCKS = 1024
WORD, INTRUDER = "asv-record", "asv-intruder"


@dataclass(frozen=True, slots=True)
class Record:
    """word: WORD, or INTRUDER where the writer found that somebody else wrote. before: (lane, count) of the one before it; (0, 0):
    none."""

    word: str
    vm: str
    boot: str
    generation: int
    lane: int
    count: int
    before: tuple[int, int]

    @property
    def at(self) -> tuple[int, int]:
        return self.lane, self.count

    def block(self) -> bytes:
        """As it lies on the disk."""
        text = f"{self.word} {self.vm} {self.boot} {self.generation} {self.lane} {self.count} {self.before[0]} {self.before[1]}"
        return f"{text} {md5(text.encode(), usedforsecurity=False).hexdigest()}".ljust(BLOCK - 1).encode() + b"\n"


class Damaged(ValueError):
    """A block that is neither empty nor a record."""


def parse(block: bytes) -> Record | None:
    """None: nothing was ever written there. Raises Damaged."""
    if not block.strip(b"\0"):
        return None
    text, _, digest = block.decode("ascii", "replace").strip().rpartition(" ")
    if md5(text.encode(), usedforsecurity=False).hexdigest() != digest:
        raise Damaged(f"no record, or its checksum is wrong: {text[:100]!r}")
    word, vm, boot, generation, lane, count, before_lane, before_count = text.split()
    before = (int(before_lane), int(before_count))
    return Record(word, vm, boot, int(generation), int(lane), int(count), before)


@dataclass(frozen=True, slots=True)
class Found:
    """What was read of a disk. lanes: the records of each as they lie, from lane 1 on."""

    head: Record | None
    lanes: tuple[tuple[Record, ...], ...]
    damaged: tuple[str, ...] = ()


def read(disk: bytes, lane_blocks: int = LANE_BLOCKS) -> Found:
    """The whole disk, raw."""
    damaged: list[str] = []

    def at(block: int) -> Record | None:
        try:
            return parse(disk[block * BLOCK : (block + 1) * BLOCK])
        except Damaged as error:
            damaged.append(f"block {block}: {error}")
            return None

    lanes: list[tuple[Record, ...]] = []
    for begin in range(FIRST, len(disk) // BLOCK - lane_blocks + 1, lane_blocks):
        found = [record for n in range(lane_blocks) if (record := at(begin + n)) is not None]
        lanes.append(tuple(found))
    while lanes and not lanes[-1]:
        lanes.pop()
    return Found(at(0), tuple(lanes), tuple(damaged))


def judge(found: Found, vm: str, acknowledged: Mapping[str, Iterable[tuple[int, int]]] = {}) -> list[str]:
    """What one writer at a time does not explain; none: it is a single history. acknowledged: by boot id, (lane, count) that the
    guest had told to be flushed."""
    return [
        *found.damaged,
        *_strangers(found, vm),
        *_chain(found),
        *_boots(found),
        *_lost(found, acknowledged),
    ]


def _strangers(found: Found, vm: str) -> Iterator[str]:
    for number, lane in enumerate(found.lanes, 1):
        for place, record in enumerate(lane, 1):
            if record.word == INTRUDER:
                yield f"at {number}.{place} boot {record.boot} found that somebody else wrote while it ran"
            if record.vm != vm:
                yield f"at {number}.{place} lies a record of {record.vm}, not of {vm}"
            if record.at != (number, place):
                yield f"at {number}.{place} lies record {record.lane}.{record.count} of boot {record.boot}"
        if len({record.boot for record in lane}) > 1:
            yield f"lane {number} has records of several boots: {', '.join(sorted({record.boot for record in lane}))}"


def _chain(found: Found) -> Iterator[str]:
    """Each record names the one that lies before it on the disk."""
    last, generation = (0, 0), 0
    for record in (record for lane in found.lanes for record in lane):
        if record.before != last:
            over = record.before < last
            said = "an earlier boot wrote on after it had begun" if over else "records it had read are gone"
            yield f"{_name(record)} came after {record.before}, and before it lies {last}: {said}"
        if record.generation < generation:
            yield f"{_name(record)} is of generation {record.generation}, after one of {generation}"
        last, generation = record.at, max(generation, record.generation)


def _boots(found: Found) -> Iterator[str]:
    """A boot that wrote, and wrote again after another one."""
    order: list[str] = []
    for record in (record for lane in found.lanes for record in lane):
        if not order or order[-1] != record.boot:
            if record.boot in order:
                yield f"boot {record.boot} wrote {record.lane}.{record.count} after boot {order[-1]} had begun"
            order.append(record.boot)
    newest = {record.at: record for lane in found.lanes for record in lane}
    head = found.head
    if head is not None and newest.get(head.at) != head:
        yield f"the head is record {head.lane}.{head.count} of boot {head.boot}, which lies in no lane"


def _lost(found: Found, acknowledged: Mapping[str, Iterable[tuple[int, int]]]) -> Iterator[str]:
    there = {(record.boot, *record.at) for lane in found.lanes for record in lane}
    for boot, ats in sorted(acknowledged.items()):
        for lane, count in sorted(ats):
            if (boot, lane, count) not in there:
                yield f"record {lane}.{count} of boot {boot} was acknowledged and is not there"


def _name(record: Record) -> str:
    return f"record {record.lane}.{record.count} of boot {record.boot}"
