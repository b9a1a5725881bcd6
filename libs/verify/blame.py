"""What was changed, where a batch does not hold: each thing is put back to what the rest says, and the hash tells which was right.
Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

from libs.verify import Batch, Fault, Orders

_sha256 = hashlib.sha256


class Case(NamedTuple):
    """A batch that does not hold, and what is known beside it. first: where it must begin; next_first: where the next one does
    (0: unknown); befores: values that the chain may have before it, the likelier first; digests and times: of the events from
    `first` on; wrong: digests of contents where the stored one is another; at_us: of the batch before."""

    batch: Batch
    first: int
    next_first: int
    befores: Sequence[bytes]
    digests: Sequence[bytes]
    times: Sequence[int]
    wrong: Mapping[int, bytes]
    orders: Orders
    at_us: int


class Blamed(NamedTuple):
    """faults; end: where the batch ends; at_us: when it was written, as far as that is proven; sure: its hash was reached, from
    `before`; computed: the chain's value by its rows."""

    faults: list[Fault]
    end: int
    at_us: int
    sure: bool
    before: bytes | None
    computed: bytes


def link(before: bytes, batch: Batch, events: Sequence[bytes], commands: bytes) -> bytes:
    """The chain's value behind a batch (infra/sql/020_batch_numbers.sql; without commands: 006_log_batches.sql)."""
    _, first, last, at_us, count, _ = batch
    words = first.to_bytes(8, "big", signed=True) + last.to_bytes(8, "big", signed=True) + at_us.to_bytes(8, "big", signed=True)
    if count is not None:
        words += count.to_bytes(8, "big", signed=True)
    return _sha256(b"".join((before, words, *events, commands))).digest()


def missing(what: str, first: int, last: int) -> Fault:
    """Of positions or batches that are not there (or, where last < first, come twice)."""
    if last < first:
        return Fault(f"{what} {last + 1}", f"comes behind {what} {first - 1}")
    if first == last:
        return Fault(f"{what} {first}", "is not in the log")
    return Fault(f"{what} {first}", f"is not in the log, nor is any up to {last}")


def of_head(batch: Batch, rows: bool) -> Fault:
    """A batch that did not hold by itself; rows: what follows goes on from the hash it stores."""
    where = f"batch {batch.number}"
    if rows:
        said = "its numbers, the order of its events or its commands are not what was chained"
        return Fault(where, f"(positions {batch.first} to {batch.last}) does not hold: {said}")
    return Fault(where, "its hash was changed: the chain goes on from what its rows give")


def blame(case: Case) -> Blamed:
    """Names what does not hold in one batch."""
    for before in case.befores:
        for end in _ends(case):
            stored, contents = _digests(case, end)
            for digests in (stored, contents) if contents != stored else (stored,):
                for batch in _variants(case, end):
                    if link(before, batch, digests, case.orders.hashes) == case.batch.hash:
                        faults = [*_numbers(case, batch), *_contents(case, end, digests is stored), *_times(case, end, batch)]
                        return Blamed([*faults, *_commands(case, batch)], end, batch.at_us, True, before, case.batch.hash)
    end = next(_ends(case))
    stored, _ = _digests(case, end)
    before = case.befores[-1] if case.befores else b""
    batch = case.batch
    faults = [*_numbers(case, batch), *_contents(case, end, True), *_times(case, end, batch), *_commands(case, batch)]
    return Blamed(faults, end, case.at_us, False, None, link(before, case.batch, stored, case.orders.hashes))


def _ends(case: Case) -> Iterator[int]:
    """Where the batch may end: as it says, or before the next one."""
    known = range(case.first - 1, case.first + len(case.digests))
    found = [end for end in (case.batch.last, case.next_first - 1) if end in known]
    yield from dict.fromkeys(found or [case.first - 1])


def _digests(case: Case, end: int) -> tuple[Sequence[bytes], Sequence[bytes]]:
    """As stored, and of the contents."""
    stored = case.digests[: end - case.first + 1]
    if not any(case.first <= position <= end for position in case.wrong):
        return stored, stored
    return stored, [case.wrong.get(position, digest) for position, digest in enumerate(stored, case.first)]


def _variants(case: Case, end: int) -> Iterator[Batch]:
    """The batch as it is, and as its neighbours, events and commands say that it was."""
    yield case.batch
    times = {*case.times[: end - case.first + 1], *((case.orders.earliest, case.orders.latest) if case.orders.many else ())}
    at_us = times.pop() if len(times) == 1 else case.batch.at_us
    for count in dict.fromkeys((case.batch.commands, case.orders.many, None)):
        yield case.batch._replace(first=case.first, last=end, at_us=at_us, commands=count)


def _numbers(case: Case, was: Batch) -> Iterator[Fault]:
    """The batch's own numbers, against those by which its hash is reached."""
    where = f"batch {case.batch.number}"
    for name, now, then in zip(Batch._fields, case.batch, was, strict=True):
        if now != then:
            yield Fault(where, f"its `{name}` is {now!r}, and was {then!r} when it was written")
    if was.first != case.first:
        yield Fault(where, f"begins at position {was.first}, but the batch before ends at {case.first - 1}")
    if was.at_us < case.at_us:
        yield Fault(where, f"was written at {was.at_us} µs, before the batch before it ({case.at_us} µs)")
    if case.orders.many != (was.commands or 0):
        yield Fault(where, f"has {case.orders.many} commands in the log, and {was.commands or 0} were written")


def _contents(case: Case, end: int, by_stored: bool) -> Iterator[Fault]:
    for position in sorted(case.wrong):
        if case.first <= position <= end:
            what = "its content is not what was written: its digest is another" if by_stored else (
                "its stored digest was changed; its content is what was chained"
            )  # fmt: skip
            yield Fault(f"position {position}", what)


def _times(case: Case, end: int, was: Batch) -> Iterator[Fault]:
    """One fault for all that follow one another with the same time."""
    odd = [(p, at_us) for p, at_us in enumerate(case.times[: end - case.first + 1], case.first) if at_us not in (was.at_us, -1)]
    for at_us, run in groupby(odd, lambda pair: pair[1]):
        positions = [position for position, _ in run]
        more = f", as up to position {positions[-1]}" if len(positions) > 1 else ""
        said = f"its time is {at_us} µs{more}, that of its batch {was.number} is {was.at_us} µs"
        yield Fault(f"position {positions[0]}", said)


def _commands(case: Case, was: Batch) -> Iterator[Fault]:
    for id in case.orders.wrong:
        yield Fault(f"command {id}", f"is not what was recorded in batch {was.number}: its digest is another")
    orders = case.orders
    late = [(id, at_us) for id, at_us in orders.times if at_us != was.at_us]
    if orders.many and orders.earliest == orders.latest != was.at_us:
        late = [(orders.id, orders.latest)]
    for id, at_us in late:
        yield Fault(f"command {id}", f"its time is {at_us} µs, that of its batch {was.number} is {was.at_us} µs")
