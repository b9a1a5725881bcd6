"""The log's disk fills up: whoever appends is told so within a bound, nothing acknowledged is lost, and it goes on when there is
space again. On a small file system of its own; skipped where this machine lets us mount none."""

from __future__ import annotations

import asyncio
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from libs.common.log import CommandRow, Group, LogError, NewEvent, Unit
from libs.common.log.migrate import migrate
from libs.common.log.postgres import PostgresLog
from libs.common.messages import encode
from tests.servers import Postgres, ServerFailed

SIZE_MIB = 160
META = encode(["c", "", "c", "user:test", 0])
SETTINGS = {"max_wal_size": "48MB", "min_wal_size": "32MB", "shared_buffers": "16MB", "max_connections": "12"}


@pytest.fixture
def small_disk() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="asvfull") as folder:
        Path(folder).chmod(0o755)
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={SIZE_MIB}m,mode=755", "asvfull", folder], capture_output=True, check=False
        )
        if done.returncode:
            pytest.skip(f"no file system can be mounted here: {done.stderr.decode().strip()}")
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", "-l", folder], check=True)


def group(n: int) -> Group:
    event = NewEvent("raised", 1, b"x" * 4000, META)
    return Group((Unit(f"counter-{n}", 0, (event,), CommandRow(f"id-{n}", b"p", b"o")),))


def fill(disk: Path) -> Path:
    """Takes all space that is left."""
    ballast = disk / "ballast"
    with ballast.open("wb") as file:
        try:
            while True:
                file.write(b"\0" * 65536)
                file.flush()
        except OSError:
            pass
    return ballast


async def test_a_full_disk_is_said_and_survived(small_disk: Path) -> None:
    with Postgres(SETTINGS, small_disk) as server:
        admin = await asyncpg.connect(server.dsn())
        await admin.execute("create database asv")
        await admin.close()
        await migrate(server.dsn("asv"))
        log = await PostgresLog.open(server.dsn("asv"), wait_s_max=3.0)
        acknowledged = [n for n in range(20) if not (await log.append(group(n))).stopped]
        ballast = fill(small_disk)
        failures = 0
        for n in range(20, 4000):
            try:
                async with asyncio.timeout(15):  # the bound that is promised is 3 s, and a little for the machine
                    await log.append(group(n))
                acknowledged.append(n)
            except LogError as error:
                assert str(error)
                failures += 1
                break
        assert failures == 1, "the disk never filled up"
        ballast.unlink()
        if server.process is None or server.process.poll() is not None:
            server.process = None
            server.start()  # a server that ended of it is started again, as the supervisor does
        async with asyncio.timeout(60):
            while True:
                try:
                    await log.append(group(9999))
                    break
                except (LogError, ServerFailed):
                    await asyncio.sleep(0.1)
        events = await log.read_all(0, 10_000)
        assert [e.position for e in events] == list(range(1, len(events) + 1))
        assert {f"counter-{n}" for n in [*acknowledged, 9999]} <= {e.stream for e in events}
        await log.close()
