"""Watchdogs of an embedded cluster: one beside each agent, nobody's child, followed by another when it dies, ended only where it
guards nothing."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from services.cluster import vms, watchdogs
from services.cluster.layout import CHECKOUT, Layout
from services.cluster.processes import alive, mark_of, send, wait_gone
from services.cluster.record import Record
from services.cluster.standing import Standing
from services.cluster.watchdogs import Warden


@pytest.fixture
def layout(tmp_path: Path) -> Iterator[Layout]:
    made = Layout(tmp_path)
    made.make()
    for pool in (made.pool, made.local("n1")):
        (pool / "id").write_text("5a5a\n")
    yield made
    vms.kill(vms.running(made))
    watchdogs.end_idle(made, all=True)


@pytest.fixture
async def warden(layout: Layout) -> AsyncIterator[Warden]:
    one = Warden(layout, Record(), Standing(), "n1", lambda: None)
    await one.start()
    yield one
    await one.off()


def guarded(layout: Layout) -> subprocess.Popen[bytes]:
    """A process that looks like a protected VM's."""
    process = subprocess.Popen(["sleep", "1000"])
    mark = mark_of(process.pid)
    assert mark is not None
    folder = layout.node("n1") / "vms" / "web-1"
    folder.mkdir(parents=True)
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    record = {"vm": "web-1", "generation": 1, "pid": mark.pid, "start_ticks": mark.started, "boot_id": boot}
    (folder / "record").write_text(json.dumps(record | {"protected": True}))
    return process


async def until(holds: Callable[[], Any], what: str) -> None:
    try:
        async with asyncio.timeout(10):
            while not holds():
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"{what}: not within 10 s") from None


async def test_one_that_dies_is_followed_by_another(layout: Layout, warden: Warden) -> None:
    first = warden.record.mark
    assert first is not None and first == watchdogs.mark(layout, "n1")
    send(first, signal.SIGKILL)
    await until(lambda: warden.record.state == "ready" and warden.record.mark != first, "another runs")
    assert warden.record.restarts == 1
    assert alive(watchdogs.mark(layout, "n1"))


async def test_off_it_stays_off(layout: Layout, warden: Warden) -> None:
    await warden.off()
    await asyncio.sleep(0.5)
    assert watchdogs.mark(layout, "n1") is None
    await warden.start()
    assert alive(watchdogs.mark(layout, "n1"))


async def test_it_ends_with_the_cluster_unless_it_guards_something(layout: Layout, warden: Warden) -> None:
    process = guarded(layout)
    kept = warden.record.mark
    await warden.stop()
    assert alive(kept)
    watchdogs.end_idle(layout)
    assert alive(kept)
    await warden.start()
    assert warden.record.mark == kept  # adopted, not doubled
    process.kill()
    process.wait()
    await warden.stop()
    assert not alive(kept)


def test_it_outlives_the_supervisor_and_the_next_adopts_it(layout: Layout) -> None:
    code = f"""
import asyncio, os
from pathlib import Path
from services.cluster.layout import Layout
from services.cluster.record import Record
from services.cluster.standing import Standing
from services.cluster.watchdogs import Warden
async def main():
    await Warden(Layout(Path({str(layout.home)!r})), Record(), Standing(), "n1", lambda: None).start()
    os.kill(os.getpid(), 9)
asyncio.run(main())
"""
    subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, check=False)
    left = watchdogs.mark(layout, "n1")
    assert left is not None

    async def adopted() -> None:
        warden = Warden(layout, Record(), Standing(), "n1", lambda: None)
        await warden.start()
        assert warden.record.mark == left
        await warden.off()

    asyncio.run(adopted())
    assert wait_gone(left, 5)
