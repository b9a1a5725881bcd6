"""The chain stepper: what holds, and what is said of what does not. (Over a real database: tests/contract/test_verify.py.)"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from libs.common.log import NewEvent
from libs.common.log.digest import event_digest
from libs.verify import Batch, Consumer, Ends, Kept, Orders, Proof, Start
from libs.verify.blame import link
from libs.verify.chain import NO_ORDERS, Chain
from libs.verify.streams import Streams, of_ends

BEGIN = Start(0, 0, b"", 0)


@dataclass
class Written:
    """A log of batches of these sizes; at second n (µs) the n-th. A size of 0: a command alone."""

    sizes: Sequence[int]
    rows: list[Proof] = field(default_factory=list)
    batches: list[Batch] = field(default_factory=list)
    orders: dict[int, Orders] = field(default_factory=dict)

    def __post_init__(self) -> None:
        hash, last = b"", 0
        for number, size in enumerate(self.sizes, 1):
            at_us = number * 1_000_000
            rows = [proof(last + n + 1, at_us) for n in range(size)]
            many = 1 if size == 0 else size // 2
            if many:
                self.orders[number] = Orders(number, many, b"c" * 16 * many, (), at_us, at_us, (), f"id-{number}")
            batch = Batch(number, last + 1, last + size, at_us, many, b"")
            hash = link(hash, batch, [row.hash for row in rows], b"c" * 16 * many)
            self.rows += rows
            self.batches.append(batch._replace(hash=hash))
            last += size

    def told(self) -> list[tuple[str, str]]:
        """(where, what) of all faults, as a walk over it finds them."""
        walked = Chain(BEGIN)
        firsts = [batch.first for batch in self.batches[1:]] + [len(self.rows) + 1]
        for number, row in enumerate(self.rows):
            if row.words != b"gone":
                walked.take(number + 1, [row])
        for batch, next_first in zip(self.batches, firsts, strict=True):
            walked.close(batch, self.orders.get(batch.number, NO_ORDERS), next_first)
        walked.finish(self.batches[-1].hash)
        return [(fault.where, fault.what) for fault in walked.faults]


def proof(position: int, at_us: int) -> Proof:
    event = NewEvent("thing", 1, b"data of %d" % position, b"meta")
    words = f"vm-a\n{position}\nthing\n1\n{len(event.data)}\n".encode() + event.data + event.meta
    return Proof(words, event_digest("vm-a", position, event), "vm-a", position, at_us)


@pytest.fixture
def written() -> Written:
    return Written((3, 1, 0, 4, 2, 5))


def test_what_was_written_holds(written: Written) -> None:
    assert written.told() == []


def test_batches_of_the_first_release_hold(written: Written) -> None:
    """They had no commands in the chain."""
    row = written.rows[0]
    hash = hashlib.sha256(b"".join(n.to_bytes(8) for n in (1, 1, 1_000_000)) + row.hash).digest()
    walked = Chain(BEGIN)
    walked.take(1, [row])
    walked.close(Batch(1, 1, 1, 1_000_000, None, hash))
    walked.finish(hash)
    assert walked.faults == []


@pytest.mark.parametrize("position", [1, 4, 5, 8, 15])
def test_a_changed_content_is_named(written: Written, position: int) -> None:
    written.rows[position - 1] = written.rows[position - 1]._replace(words=b"other")
    assert written.told() == [(f"position {position}", "its content is not what was written: its digest is another")]


@pytest.mark.parametrize("position", [1, 4, 5, 8, 15])
def test_a_changed_digest_is_told_from_a_changed_content(written: Written, position: int) -> None:
    written.rows[position - 1] = written.rows[position - 1]._replace(hash=b"0123456789abcdef")
    assert written.told() == [(f"position {position}", "its stored digest was changed; its content is what was chained")]


@pytest.mark.parametrize("position", [1, 4, 8, 14])
def test_a_lost_event_is_named(written: Written, position: int) -> None:
    written.rows[position - 1] = written.rows[position - 1]._replace(words=b"gone")
    assert written.told() == [(f"position {position}", "is not in the log")]


def test_a_batch_whose_time_was_put_off_does_not_make_those_behind_it_late(written: Written) -> None:
    """What is proven of it is its own time."""
    written.batches[1] = written.batches[1]._replace(at_us=5_500_000)
    assert [where for where, _ in written.told()] == ["batch 2"]


@pytest.mark.parametrize("number", [1, 2, 4, 6])
@pytest.mark.parametrize("column", ["first", "last", "at_us", "commands"])
@pytest.mark.parametrize("by", [1, -1, 256])
def test_a_changed_number_of_a_batch_is_named_with_what_it_was(written: Written, number: int, column: str, by: int) -> None:
    old = getattr(written.batches[number - 1], column)
    written.batches[number - 1] = written.batches[number - 1]._replace(**{column: old + by})
    told = written.told()
    assert told[0] == (f"batch {number}", f"its `{column}` is {old + by}, and was {old} when it was written")
    assert {where for where, _ in told} == {f"batch {number}"}


@pytest.mark.parametrize("number", [1, 3, 5])
def test_a_changed_hash_of_a_batch_is_named(written: Written, number: int) -> None:
    written.batches[number - 1] = written.batches[number - 1]._replace(hash=b"0" * 32)
    assert written.told() == [(f"batch {number}", "its hash was changed: the chain goes on from what its rows give")]


@pytest.mark.parametrize("number", [1, 3, 5])
def test_a_lost_batch_is_named(written: Written, number: int) -> None:
    del written.batches[number - 1]
    assert written.told() == [(f"batch {number}", "is not in the log")]


def test_two_events_that_changed_places_are_no_batch_any_more(written: Written) -> None:
    written.rows[4], written.rows[5] = written.rows[5], written.rows[4]
    assert [where for where, _ in written.told()] == ["batch 4"]


def test_commands_that_are_not_what_was_recorded(written: Written) -> None:
    written.orders[4] = written.orders[4]._replace(wrong=("id-x",), hashes=b"d" * 32)
    assert written.told() == [("command id-x", "is not what was recorded in batch 4: its digest is another")]


def test_a_command_that_was_taken_away(written: Written) -> None:
    del written.orders[3]
    assert ("batch 3", "has 0 commands in the log, and 1 were written") in written.told()


def test_a_log_that_was_chained_anew_differs_from_its_head(written: Written) -> None:
    walked = Chain(BEGIN)
    walked.finish(b"x" * 32)
    assert [fault.where for fault in walked.faults] == ["the head"]


def test_versions_of_streams() -> None:
    streams = Streams(whole=True)
    streams.take(1, [(b"", b"", "vm-a", 1), (b"", b"", "vm-b", 1), (b"", b"", "vm-a", 3), (b"", b"", "vm-c", 2)])
    streams.compare([("vm-a", 3), ("vm-b", 2), ("vm-d", 1)])
    streams.rest()
    assert [(fault.where, fault.what) for fault in streams.faults] == [
        ("position 3", "is version 3 of vm-a, whose last one was 1"),
        ("position 4", "is version 2 of vm-c, whose last one was 0"),
        ("stream vm-b", "is said to be at version 2, its last event is 1"),
        ("stream vm-d", "is said to be at version 1, and has no event"),
        ("stream vm-c", "has 2 events, and no stored version"),
    ]


def test_a_part_of_a_log_begins_with_any_version() -> None:
    streams = Streams(whole=False)
    streams.take(70, [(b"", b"", "vm-a", 9), (b"", b"", "vm-a", 11)])
    assert [fault.where for fault in streams.faults] == ["position 71"]


def test_ends_that_do_not_fit() -> None:
    kept, consumers = (Kept("compute", 12, "s"),), (Consumer("a", 10, 1), Consumer("b", 11, 1), Consumer("c", 1, 3))
    ends = Ends(10, 500, 2, 4, b"", consumers, kept, ("position 77",))
    assert [fault.where for fault in of_ends(ends, BEGIN, 3, 9, 400)] == [
        "position 10", "the head", "the head", "position 77", "consumer b", "consumer c", "snapshot compute",
    ]  # fmt: skip
