"""What is done with a log of which most is in archives: a service starts from zero, decisions are replayed, past states are shown,
the chain finds what was forged; and asvctl says what there is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import NamedTuple

import asyncpg
import msgspec
import pytest

from libs.common.bus.memory import MemoryBus
from libs.common.clock import ManualClock
from libs.common.host import digests
from libs.common.host.driver import Runner
from libs.common.log.archive.file import Archive, Making
from libs.common.log.postgres import PostgresLog
from libs.common.messages import Recorded
from libs.past.aslog import aslog
from libs.past.aslog import write as write_aslog
from libs.past.where import open_past
from libs.retention.policy import Marks, Partition, Policy, due, obstacles
from libs.verify.slices import look
from proto.upcasts import DOWNCASTS, UPCASTS
from services.compute.app import SERVICE as COMPUTE
from services.gateway.past import kept
from services.gateway.past.moment import Moment
from services.gateway.past.pasts import Pasts
from services.gateway.past.store import MemoryKept
from services.host.replay.app import main as replay
from tests.contract.archive_rig import Connection, archive, small_partitions, verified
from tests.contract.cli_rig import Ctl
from tests.past_rig import copy, failover
from tests.servers import Postgres

SIZE = 30
"""events in a partition, of the 116 of a failover"""
KEEP = Policy(keep_events=20)


class Lived(NamedTuple):
    owner: Connection
    dsn: Callable[[str], str]
    folder: Path


@pytest.fixture
async def lived(postgres: Postgres, database: str, tmp_path: Path) -> AsyncIterator[Lived]:
    """A failover in a log of small partitions, nothing of it archived."""
    owner = await asyncpg.connect(postgres.dsn(database))
    await small_partitions(owner, SIZE)
    log = await PostgresLog.open(postgres.dsn(database, "asv_service"))
    await copy(failover(), log)
    await log.close()
    yield Lived(owner, lambda role: postgres.dsn(database, role), tmp_path / "archive")
    await owner.close()


async def states(lived: Lived) -> dict[str, bytes]:
    """Of compute, as it starts without a snapshot."""
    log = await PostgresLog.open(lived.dsn("asv_service"))
    bus, clock = MemoryBus(), ManualClock(failover().head_now().at_us)
    runner = Runner(COMPUTE, log, bus, clock, dict(UPCASTS), downcasts=dict(DOWNCASTS))
    await runner.start()
    found = {name: digests.digest(slot.state) for name, slot in runner.host.slots.items() if slot.version}
    await runner._tasks.stop()
    await log.close()
    return found


async def test_a_service_starts_from_zero_over_archives(lived: Lived) -> None:
    before = await states(lived)
    await lived.owner.execute("delete from asv.snapshots; update asv.consumers set position = 116")
    done = await archive(lived.dsn("postgres"), lived.folder, KEEP)
    assert [(row.first, row.last) for row in done.archived] == [(1, 30), (31, 60), (61, 90)]
    assert await states(lived) == before
    assert len(before) > 4


async def test_decisions_are_replayed_and_past_states_shown_over_archives(
    lived: Lived, capfd: pytest.CaptureFixture[str]
) -> None:
    async def replayed() -> tuple[int, str]:
        capfd.readouterr()
        code = await asyncio.to_thread(replay, ["--log", lived.dsn("asv_reader"), "--service", "compute", "--json"])
        return code, capfd.readouterr().out

    async def shown() -> list[bytes]:
        log = await PostgresLog.open(lived.dsn("asv_gateway"))
        pasts = Pasts(log, MemoryKept())
        moments = [Moment(position=p) for p in (1, 29, 30, 31, 60, 89, 90, 91, 116)]
        moments += [Moment(at_us=r.at_us) for r in await log.read_all(43, 3)]
        found = [await pasts.at(moment) for moment in moments]
        await log.close()
        views = [[model.position, model.at_us, *(getattr(model, name) for name in kept.PARTS)] for model in found]
        return [msgspec.msgpack.encode(one) for one in views]

    before = await replayed(), await shown()
    assert before[0][0] == 0
    done = await archive(lived.dsn("postgres"), lived.folder, KEEP)
    assert done.archived[-1].last == 90
    assert (await replayed(), await shown()) == before


async def test_what_was_forged_in_an_archive_is_found_by_the_chain(lived: Lived) -> None:
    """The file and its row in the database were made anew by who owns both; the link in the next archive was not."""
    done = await archive(lived.dsn("postgres"), lived.folder, KEEP)
    row = done.archived[1]
    path = lived.folder / row.name
    there = Archive.open(path)
    forged = next(iter(there.commands(-1, row.last_batch)))[3].id
    making = Making(path.with_suffix(".forged"))
    for records, stored in there.events(0, row.last):
        making.events([_forged(r) if r.position == 40 else r for r in records], stored)
    for links in there.batches(0, row.last_batch):
        making.batches(links)
    for rows in there.commands(-1, row.last_batch):
        making.commands([r._replace(payload=b"forged") if r.id == forged else r for r in rows])
    digest = making.finish(there.header)
    making.path.rename(path)
    size = path.stat().st_size
    await lived.owner.execute("update asv.archives set digest = $1, size = $2 where first = $3", digest, size, row.first)
    named = {fault.where for fault in (await verified(lived.dsn("asv_reader"))).faults}
    assert named == {"position 40", f"command {forged}"}


def _forged(recorded: Recorded) -> Recorded:
    return msgspec.structs.replace(recorded, data=recorded.data + b"\x00")


async def test_asvctl_archives_and_says_what_there_is(lived: Lived, ctl: Ctl) -> None:
    async def call(*words: str, role: str = "postgres") -> tuple[int, str]:
        said = await asyncio.to_thread(ctl, "log", *words, "--log", lived.dsn(role))
        return said.code, said.out + said.err

    folder = str(lived.folder)
    assert "nothing is archived" in (await call("archive", "ls", role="asv_reader"))[1]
    code, said = await call("archive", "--folder", folder, "--keep-events", "20", "--keep-days", "0", "--dry-run")
    assert (code, "events_61" in said, "events_91" in said) == (0, True, False)
    code, said = await call("archive", "--folder", folder, "--keep-events", "20", "--keep-days", "0")
    assert (code, "compute has no snapshot" in said) == (1, True)
    for name in ("compute", "memory", "io", "ha", "gateway"):
        await lived.owner.execute("insert into asv.snapshots values ($1, 116, 's', '')", name)
    assert (await call("archive", "policy", "--keep-events", "30", "--keep-days", "0", "--partition-events", "500000"))[0] == 0
    assert "the newest 30 events" in (await call("archive", "policy"))[1]
    assert (await call("archive", "policy", "--commands-days", "0"))[0] == 2, "ids of a day at least are known"
    assert (await call("archive", role="asv_reader"))[0] == 2, "nothing says where to"
    code, said = await call("archive", "--folder", folder, role="asv_reader")
    assert (code, "asv_owner" in said) == (1, True)
    code, said = await call("archive", "--folder", folder)
    assert (code, "Positions 31 to 60 are in" in said, "61 to 90" in said) == (0, True, False)
    assert (await call("archive", "--folder", folder, "--keep-events", "20", "--keep-days", "0"))[0] == 0
    listed = await asyncio.to_thread(ctl, "log", "archive", "ls", "--log", lived.dsn("asv_reader"), "--json")
    assert [(one["first"], one["last"], one["state"]) for one in listed.json] == [
        (1, 30, "whole"), (31, 60, "whole"), (61, 90, "whole"),
    ]  # fmt: skip
    code, said = await call("archive", "verify", role="asv_reader")
    assert (code, "3 archives, positions 1 to 90: they hold." in said) == (0, True)
    assert (await call("verify", role="asv_reader"))[0] == 0
    assert (await call("verify", "--from", "35", "--to", "95", role="asv_reader"))[0] == 0
    alone = [str(file) for file in sorted(lived.folder.iterdir())]
    said_all = await asyncio.to_thread(ctl, "log", "verify", "--log", folder)
    assert (said_all.code, "The log holds." in said_all.out) == (0, True)
    assert (await asyncio.to_thread(ctl, "log", "verify", "--log", alone[1])).code == 0
    assert (await asyncio.to_thread(ctl, "log", "verify", "--log", folder, "--deep")).code == 0
    assert (await asyncio.to_thread(ctl, "log", "verify", "--log", alone[1], "--deep")).code == 2
    assert (await asyncio.to_thread(ctl, "log", "verify", "--log", folder, "--to", "100")).code == 2
    Path(alone[1]).write_bytes(Path(alone[1]).read_bytes()[:-9])
    code, said = await call("archive", "verify", role="asv_reader")
    assert (code, "positions 31 to 60" in said, "is torn" in said) == (1, True, True)
    code, said = await call("verify", role="asv_reader")
    assert (code, "is torn" in said) == (4, True)
    assert (await call("verify", "--database-only", role="asv_reader"))[0] == 0


async def test_a_slice_is_looked_at(ctl: Ctl, tmp_path: Path) -> None:
    events = failover().read_all_now(0, 116)
    good, bad = tmp_path / "good.aslog", tmp_path / "bad.aslog"
    write_aslog(good, aslog(events, (), 1))
    gap = [event for event in events if event.position != 60]
    write_aslog(bad, msgspec.structs.replace(whole := aslog(gap, (), 1), header=msgspec.structs.replace(whole.header, whole=True)))
    said = await asyncio.to_thread(ctl, "log", "verify", "--log", str(good))
    assert (said.code, "A slice has no chain" in said.out) == (0, True)
    said = await asyncio.to_thread(ctl, "log", "verify", "--log", str(bad))
    assert (said.code, "position 60: is not in the file" in said.out, events[59].stream in said.out) == (1, True, True)
    assert (await asyncio.to_thread(ctl, "log", "verify", "--log", str(good), "--from", "3")).code == 2
    good.write_bytes(good.read_bytes()[:-1])
    said = await asyncio.to_thread(ctl, "log", "verify", "--log", str(good))
    assert (said.code, "is torn or was changed" in said.err) == (4, True)
    past = await open_past(str(bad))
    assert (await past.head()).position == 116
    assert len(look(aslog(events[:50], (), 1)).faults) == 0
    assert [fault.where for fault in look(aslog([*events[:50], *events[51:60]], (), 1)).faults] != []


def test_what_is_due() -> None:
    day = 86_400_000_000
    parts = [Partition(f"events_{n}", n, n + 99, n * day) for n in (1, 101, 201, 301)]
    assert due(parts, 350, Policy(), 400 * day) == parts[:3]
    assert due(parts, 300, Policy(), 400 * day) == parts[:2], "the end of the log is never archived"
    assert due(parts, 350, Policy(keep_events=100), 400 * day) == parts[:2]
    assert due(parts, 350, Policy(keep_days=250), 400 * day) == parts[:2]
    assert due(parts, 350, Policy(keep_days=500), 400 * day) == []
    said = list(obstacles(parts[0], Marks({"a": 99, "b": 100}, {"compute": 5}), ("compute", "io")))
    assert [one.split(",")[0] for one in said] == [
        "consumer a is at position 99", "the snapshot of compute is of position 5", "io has no snapshot",
    ]  # fmt: skip
