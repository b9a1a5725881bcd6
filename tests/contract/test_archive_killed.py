"""`asvctl log archive` as a process that is killed, again and again, while the log is written to; and a disk that is full."""

from __future__ import annotations

import asyncio
import os
import random
import resource
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import asyncpg
import pytest

from libs.common.log.postgres import PostgresLog
from libs.retention import NotArchived
from services.cli.log_archive import NEEDED
from tests.contract.archive_rig import POLICY, Connection, archive, read, small_partitions, verified
from tests.contract.test_eventlog import one
from tests.contract.verify_rig import write
from tests.servers import Postgres

UNITS = 700
ROOT = Path(__file__).parents[2]


@pytest.fixture
async def owner(postgres: Postgres, database: str) -> AsyncIterator[Connection]:
    """Of a log in small partitions, whose services all have a snapshot of its end."""
    connection = await asyncpg.connect(postgres.dsn(database))
    await small_partitions(connection)
    log = await PostgresLog.open(postgres.dsn(database, "asv_service"))
    await write(log, random.Random(8), UNITS)
    await log.close()
    await connection.execute("update asv.consumers set position = (select position from asv.log_head)")
    for name in NEEDED:
        await connection.execute("insert into asv.snapshots select $1, position, 's', '' from asv.log_head", name)
    yield connection
    await connection.close()


async def run(dsn: str, folder: Path, lines: int, meanwhile: Callable[[], Awaitable[None]]) -> tuple[int, int]:
    """(exit code, lines told): killed once that many steps were told. meanwhile: called at each."""
    words = ("log", "archive", "--log", dsn, "--folder", str(folder), "--keep-events", "200", "--keep-days", "0")
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.cli", *words, cwd=ROOT, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
        env={name: value for name, value in os.environ.items() if not name.startswith("ASV_")},
    )  # fmt: skip
    assert child.stderr is not None
    told = 0
    while await child.stderr.readline():
        told += 1
        await meanwhile()
        if told == lines:
            child.send_signal(signal.SIGKILL)
    return await child.wait(), told


@pytest.mark.timeout(300)
async def test_a_process_that_is_killed_at_every_step_loses_nothing(
    owner: Connection, postgres: Postgres, database: str, tmp_path: Path
) -> None:
    service, reader = postgres.dsn(database, "asv_service"), postgres.dsn(database, "asv_reader")
    log = await PostgresLog.open(service)
    written = 0

    async def go_on() -> None:
        nonlocal written
        result = await log.append(one("alive-a", written, 1, f"alive-{written}"))
        assert result.stopped is None
        written += 1

    killed, code = 0, -1
    while code != 0:
        code, told = await run(postgres.dsn(database), tmp_path / "archive", 1 + killed % 7, go_on)
        killed += code == -signal.SIGKILL
        assert code in (0, -signal.SIGKILL), (code, told)
        assert (await verified(reader)).faults == []
    await log.close()
    assert killed >= 3, "each at about that step: it may be a step or two ahead of who reads what it says"
    found = await read(service, reader)
    assert [r.position for r in found.events] == list(range(1, len(found.events) + 1))
    assert [r.version for r in found.streams["alive-a"]] == list(range(1, written + 1)), "what was acknowledged is there"
    assert await owner.fetchval("select bool_and(dropped) and count(*) >= 3 from asv.archives")
    files = sorted(file.name for file in (tmp_path / "archive").iterdir())
    assert files == [row[0] for row in await owner.fetch("select name from asv.archives order by first")]
    assert {(tmp_path / "archive" / name).stat().st_mode & 0o7 for name in files} == {0}, "others read nothing of it"


async def test_a_disk_that_is_full_is_said(owner: Connection, postgres: Postgres, database: str, tmp_path: Path) -> None:
    """A limit on the size of files, as a quota has it."""
    dsn, folder = postgres.dsn(database), tmp_path / "archive"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(NotArchived, match=f"{folder} cannot be written"):
            await archive(dsn, folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(folder.iterdir()) == []
    assert await owner.fetchval("select count(*) from asv.archives") == 0
    (tmp_path / "file").write_text("")
    with pytest.raises(NotArchived, match="cannot be written"):
        await archive(dsn, tmp_path / "file" / "below")
    assert len((await archive(dsn, folder, POLICY)).archived) >= 3
