"""The audit of what guests wrote: a single history passes, and each trace of two writers at once is found."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.chaos.records import BLOCK, FIRST, INTRUDER, WORD, Found, Record, judge, parse, read

LANE = 128


def lane(number: int, boot: str, records: int, before: tuple[int, int], generation: int = 0) -> list[Record]:
    """A lane as one boot writes it."""
    made: list[Record] = []
    for count in range(1, records + 1):
        made.append(Record(WORD, "w", boot, generation or number, number, count, before))
        before = (number, count)
    return made


def disk(*lanes: list[Record], head: Record | None = None, lanes_max: int = 6) -> bytearray:
    """Each record where it says that it lies."""
    raw = bytearray((FIRST + lanes_max * LANE) * BLOCK)
    for record in (record for one in lanes for record in one):
        put(raw, record, FIRST + (record.lane - 1) * LANE + record.count - 1)
    newest = head or lanes[-1][-1]
    put(raw, newest, 0)
    return raw


def put(raw: bytearray, record: Record, block: int) -> None:
    raw[block * BLOCK : (block + 1) * BLOCK] = record.block()


def verdict(raw: bytearray, **acknowledged: list[tuple[int, int]]) -> str:
    return "; ".join(judge(read(bytes(raw), LANE), "w", acknowledged))


A, B = lane(1, "a", 5, (0, 0)), lane(2, "b", 7, (1, 5))


def test_a_record_reads_as_it_was_written() -> None:
    assert parse(A[0].block()) == A[0] and len(A[0].block()) == BLOCK
    assert parse(bytes(BLOCK)) is None


def test_boots_one_after_another_are_one_history() -> None:
    assert verdict(disk(A, B), a=[(1, 5)], b=[(2, 3)]) == ""
    assert verdict(disk(A, B, head=B[-2])) == ""  # the head is written after the record, and was not
    assert verdict(disk(A, B, lane(3, "b", 2, (2, 7)))) == ""  # a lane that was full
    assert judge(read(bytes(FIRST * BLOCK), LANE), "w") == []


def test_an_earlier_boot_that_wrote_on_is_found() -> None:
    late = Record(WORD, "w", "a", 1, 1, 6, (1, 5))
    assert "an earlier boot wrote on" in verdict(disk([*A, late], B))


def test_two_boots_that_began_from_the_same_state_are_found() -> None:
    raw = disk(A, B)
    other = lane(2, "c", 3, (1, 5))
    for record in other[:1]:
        put(raw, record, FIRST + LANE)
    assert "several boots" in verdict(raw)


def test_a_boot_that_comes_back_after_another_one_is_found() -> None:
    assert "after boot b had begun" in verdict(disk(A, B, lane(3, "a", 2, (2, 7), generation=3)))


def test_an_intruder_that_was_met_is_found() -> None:
    met = replace(B[-1], word=INTRUDER)
    assert "somebody else wrote" in verdict(disk(A, [*B[:-1], met]))


def test_a_head_that_nobody_wrote_is_found() -> None:
    assert "lies in no lane" in verdict(disk(A, B, head=Record(WORD, "w", "c", 2, 2, 3, (2, 2))))


@pytest.mark.parametrize("gone", [[(1, 6)], [(2, 1)]])
def test_an_acknowledged_record_that_is_gone_is_found(gone: list[tuple[int, int]]) -> None:
    assert "was acknowledged and is not there" in verdict(disk(A, B), a=gone)


def test_records_that_a_later_boot_had_read_and_are_gone_are_found() -> None:
    assert "are gone" in verdict(disk(A[:3], B))


def test_generations_that_go_back_are_found() -> None:
    assert "generation 1, after one of 3" in verdict(disk(lane(1, "a", 5, (0, 0), 3), lane(2, "b", 7, (1, 5), 1)))


def test_a_damaged_block_and_a_stranger_are_found() -> None:
    raw = disk(A, B)
    raw[(FIRST + 2) * BLOCK + 20] ^= 1
    assert "checksum is wrong" in verdict(raw)
    put(raw := disk(A, B), replace(A[2], vm="other"), FIRST + 2)
    assert "a record of other" in verdict(raw)


def test_a_hole_is_found() -> None:
    raw = disk(A, B)
    raw[(FIRST + 2) * BLOCK : (FIRST + 3) * BLOCK] = bytes(BLOCK)
    assert "lies record 1.4" in verdict(raw)
    assert isinstance(read(bytes(raw), LANE), Found)
