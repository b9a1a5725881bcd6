"""`asvctl lab stall`: all of a node's processes stand still for as long as was said, and go on by themselves."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from signal import SIGCONT, SIGKILL, Signals
from typing import Any

import msgspec
import pytest

from services.cluster.lab import Lab
from services.cluster.layout import Layout
from services.cluster.processes import mark_of, send
from services.cluster.record import ChildRecord
from services.node.drivers.qemu.process import host_boot_id
from tests.contract.watchdog_rig import stat


class Process:
    """One that is kept: as an agent, or a watchdog, is by the supervisor."""

    def __init__(self) -> None:
        self.popen = subprocess.Popen(["sleep", "300"])
        self.record = ChildRecord(mark=mark_of(self.popen.pid), state="ready")

    @property
    def still(self) -> bool:
        return stat(self.popen.pid)[0] == "T"

    def signal(self, number: Signals) -> bool:
        return send(self.record.mark, number)

    def start(self) -> None:
        assert self.popen.poll() is None

    def end(self) -> None:
        self.signal(SIGCONT)
        self.popen.kill()
        self.popen.wait()


class Watchdog(Process):
    async def start(self) -> None:  # type: ignore[override]
        assert self.popen.poll() is None


class Cluster:
    """What a Lab needs of its supervisor. One node, with one VM."""

    def __init__(self, home: Path) -> None:
        self.layout = Layout(home)
        self.agent, self.watchdog, self.vm = Process(), Watchdog(), Process()
        self.children, self.wardens = {"n1": self.agent}, {"n1": self.watchdog}
        self.lines: dict[str, Any] = {}
        self.told = 0
        folder = self.layout.node("n1") / "vms" / "web-1"
        folder.mkdir(parents=True)
        mark = self.vm.record.mark
        assert mark is not None
        record = {"vm": "web-1", "pid": mark.pid, "start_ticks": mark.started, "boot_id": host_boot_id()}
        (folder / "record").write_bytes(msgspec.json.encode(record))

    @property
    def still(self) -> list[bool]:
        return [process.still for process in (self.agent, self.watchdog, self.vm)]

    def changed(self) -> None:
        self.told += 1


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path)
    yield made
    for process in (made.agent, made.watchdog, made.vm):
        process.end()


async def until(cluster: Cluster, still: bool) -> None:
    async with asyncio.timeout(10):
        while cluster.still != [still] * 3:
            await asyncio.sleep(0.01)


async def test_all_of_it_stands_still_for_so_long(cluster: Cluster) -> None:
    lab, began = Lab(cluster), time.monotonic()  # type: ignore[arg-type]
    said = await lab.play("stall", "n1", for_s=0.5)
    assert said.endswith("for 0.5 s") and "web-1" in said and cluster.agent.record.state == "frozen"
    await until(cluster, still=True)
    told = cluster.told
    await until(cluster, still=False)
    assert time.monotonic() - began >= 0.5
    assert cluster.agent.record.state == "ready" and cluster.told > told
    await lab.play("stall", "n1", for_s=0.1)
    await until(cluster, still=False)


async def test_it_is_over_when_it_is_healed_and_does_not_wake_a_later_one(cluster: Cluster) -> None:
    lab = Lab(cluster)  # type: ignore[arg-type]
    await lab.play("stall", "n1", for_s=0.3)
    with pytest.raises(ValueError, match="stands still already"):
        await lab.play("stall", "n1", for_s=5)
    await lab.play("heal", "n1")
    await until(cluster, still=False)
    await lab.play("freeze", "n1", all=True)
    await asyncio.sleep(0.6)  # as long as the stall would have lasted, and again
    assert cluster.still == [True] * 3
    await lab.play("heal", "n1")
    await until(cluster, still=False)


@pytest.mark.parametrize("for_s", [0, -1, 601])
async def test_a_time_that_is_none_is_refused(cluster: Cluster, for_s: float) -> None:
    with pytest.raises(ValueError, match="no time to stand still"):
        await Lab(cluster).play("stall", "n1", for_s=for_s)  # type: ignore[arg-type]
    assert cluster.still == [False] * 3


async def test_one_that_ended_meanwhile_is_left_alone(cluster: Cluster) -> None:
    lab = Lab(cluster)  # type: ignore[arg-type]
    await lab.play("stall", "n1", for_s=0.2)
    cluster.vm.signal(SIGKILL)
    cluster.vm.popen.wait()
    async with asyncio.timeout(10):
        while cluster.agent.still or cluster.watchdog.still:
            await asyncio.sleep(0.01)
