"""What archives have to show for themselves (libs/verify): alone, or before what is in the database."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Sequence
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

from libs.common.log import CommandRow
from libs.common.log.archive import BadArchive, Link, Ordered
from libs.common.log.archive.file import ENDING, FRAME_DIGEST_BYTES, Archive
from libs.common.log.archive.shelf import Shelved
from libs.common.log.digest import DIGEST_BYTES, command_digest
from libs.common.messages import Recorded
from libs.verify import Answered, Batch, Ends, Orders, Proof, Start


def proofs(records: Sequence[Recorded], digests: bytes, full: bool) -> list[Any]:
    """Rows of Proof (as plain tuples: they are made by the million) of events with their stored digests, one after the other. full:
    as Evidence.events has it."""
    stored = [digests[at : at + FRAME_DIGEST_BYTES] for at in range(0, len(digests), FRAME_DIGEST_BYTES)]
    words = [f"{r.stream}\n{r.version}\n{r.type}\n{r.v}\n{len(r.data)}\n".encode() for r in records]
    if full:
        return [
            (word, digest, r.stream, r.version, r.at_us, r.type, r.v, r.data, r.meta)
            for word, digest, r in zip(words, stored, records, strict=True)
        ]
    return [
        (word + r.data + r.meta, digest, r.stream, r.version, r.at_us)
        for word, digest, r in zip(words, stored, records, strict=True)
    ]


def digest_of(row: Ordered) -> bytes:
    """As it is stored beside the command (infra/sql/024_append_batch_contract.sql; of 16 bytes:
    021_append_batch.sql)."""
    if len(row.hash) == DIGEST_BYTES:
        words = f"{row.id}\n{row.stream}\n{row.position}\n{len(row.payload)}\n".encode()
        return hashlib.sha256(words + row.payload + row.outcome).digest()[:DIGEST_BYTES]
    return command_digest(row.stream, CommandRow(row.id, row.payload, row.outcome)) + row.position.to_bytes(8)


def orders(rows: Iterable[Ordered]) -> Iterator[Orders]:
    """rows: by batch."""
    for batch, group in groupby(rows, lambda row: row.batch):
        ordered = sorted(group, key=lambda row: (row.position, row.id))
        earliest, latest = min(r.at_us for r in ordered), max(r.at_us for r in ordered)
        by_id = sorted(ordered, key=lambda row: row.id)
        times = [(r.id, r.at_us) for r in by_id] if earliest != latest else []
        wrong = [r.id for r in by_id if digest_of(r) != r.hash]
        hashes = b"".join(r.hash for r in ordered)
        yield Orders(batch, len(ordered), hashes, wrong, earliest, latest, times, by_id[0].id)


def answered(rows: Iterable[Ordered]) -> list[Answered]:
    return [Answered(r.at_us, r.id, r.stream, r.position, r.payload, r.outcome) for r in rows]


def batch_of(link: Link) -> Batch:
    return Batch(*link)


def behind(row: Shelved | None) -> Start:
    """Where what follows an archive begins; None: the log's beginning."""
    if row is None:
        return Start(0, 0, b"", 0)
    return Start(row.last_batch, row.last, row.hash, row.at_us, row.digests, (row.until_us,) * len(row.digests))


class Files:
    """Archives that follow one another, without the database. Keeps the contract of Evidence. It ends with the last batch: what
    lies behind it is proven with the batch, by the next archive or the database."""

    def __init__(self, archives: Sequence[Archive]) -> None:
        """Raises BadArchive where they do not follow one another, or are of two logs."""
        self._archives = archives
        for before, after in pairwise(archives):
            _follows(before, after)

    async def close(self) -> None:
        return None

    async def snapshot(self, name: str) -> None:
        """None is in files."""

    async def ends(self) -> Ends:
        last = self._archives[-1].header
        return Ends(last.ended, last.at_us, last.incarnation, last.last_batch, last.hash, (), (), ())

    async def start(self, after: int) -> Start:
        """Of the first archive, whatever is asked for."""
        return before(self._archives[0])

    async def batches(self, after: int, until: int, step: int) -> AsyncGenerator[Sequence[Batch]]:
        for archive in self._archives:
            for links in archive.batches(after, until):
                yield [batch_of(link) for link in links]
                await asyncio.sleep(0)

    async def events(self, after: int, until: int, step: int, full: bool) -> AsyncGenerator[tuple[int, Sequence[Proof]]]:
        for archive in self._archives:
            for records, digests in archive.events(after, until):
                yield records[0].position, proofs(records, digests, full)
                await asyncio.sleep(0)

    async def orders(self, after: int, until: int, step: int) -> AsyncGenerator[Sequence[Orders]]:
        for archive in self._archives:
            rows = (row for chunk in archive.commands(max(after, 0), until) for row in chunk)
            for found in orders(rows):
                yield [found]

    async def heads(self) -> AsyncIterator[Sequence[tuple[str, int]]]:
        """As the archives' directories say."""
        versions: dict[str, int] = {}
        for archive in self._archives:
            versions.update(archive.versions())
        last = self._archives[-1]
        for records, _ in last.events(last.header.ended, last.header.last):
            for recorded in reversed(records):
                versions[recorded.stream] = min(versions[recorded.stream], recorded.version - 1)
        yield [(stream, version) for stream, version in sorted(versions.items()) if version]


def opened(path: Path) -> list[Archive]:
    """A file, or all archives of a folder in their order. Raises BadArchive."""
    found = [path] if not path.is_dir() else sorted(path.glob(f"*{ENDING}"))
    if not found:
        raise BadArchive(f"{path} has no archive, NAME{ENDING}, in it")
    return sorted((Archive.open(one) for one in found), key=lambda archive: (archive.header.log, archive.header.first))


def before(archive: Archive) -> Start:
    """Where its own batches begin, as it says itself."""
    header, size = archive.header, FRAME_DIGEST_BYTES
    carried = tuple(header.carried[at : at + size] for at in range(0, len(header.carried), size))
    times = (header.carried_us,) * len(carried)
    return Start(header.first_batch - 1, header.first - 1, header.before, header.before_us, carried, times)


def _follows(before: Archive, after: Archive) -> None:
    one, two = before.header, after.header
    if one.log != two.log:
        said = f"{after.path} is of log {two.log[:4].hex()}, {before.path} of log {one.log[:4].hex()}"
        raise BadArchive(f"{said}: give the archives of one log")
    if two.first != one.last + 1:
        what = "are in no archive" if two.first > one.last + 1 else "are in two archives"
        low, high = sorted((two.first, one.last + 1))
        said = f"{before.path} ends at {one.last}, {after.path} begins at {two.first}"
        raise BadArchive(f"positions {low} to {high - 1} {what}: {said}")
    if two.before != one.hash:
        said = f"{after.path} goes on from another history than that of {before.path}: the chain is at {one.hash.hex()[:16]}… there"
        raise BadArchive(f"{said}, and it begins from {two.before.hex()[:16]}…")
