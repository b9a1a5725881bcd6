"""Simulated VMs have bodies: whoever kills one has killed the VM, and no two nodes run the same."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import msgspec
import pytest

from services.node.drivers import LeaseRefused, Locked
from services.node.drivers.qemu.folder import Folder
from services.node.drivers.simbodies import Bodies, EmbodiedDriver
from services.node.drivers.simhost import SimHost
from services.node.drivers.simparams import SimParams
from services.node.drivers.simpool import SimPool
from services.watchdog.table import Table
from tests.contract.driver_rigs import machine_spec
from tests.contract.watchdog_rig import until

PARAMS = SimParams(start_us=5_000, jitter_us=1_000, boot_us=5_000, kill_us=1_000)


def driver(folder: Path, node: str) -> EmbodiedDriver:
    host = SimHost(node, PARAMS, Random(7), SimPool(any_file=True))
    return EmbodiedDriver(host, Bodies(node, folder / node, folder / "pool"))


@pytest.fixture
async def nodes(tmp_path: Path) -> AsyncIterator[tuple[EmbodiedDriver, EmbodiedDriver]]:
    (tmp_path / "pool").mkdir()
    one, two = driver(tmp_path, "n1"), driver(tmp_path, "n2")
    await one.open()
    await two.open()
    yield one, two
    for each in (one, two):
        for vm in list(each._bodies.all):
            await each.kill(vm)
        await each.close()


async def test_killed_from_outside_it_has_ended(tmp_path: Path, nodes: tuple[EmbodiedDriver, EmbodiedDriver]) -> None:
    spec = msgspec.structs.replace(machine_spec(), protected=True)
    await nodes[0].start(spec)
    record = Folder(tmp_path / "n1", "web-1").load()
    assert record is not None
    assert (record.generation, record.protected) == (1, True)
    table = Table(str(tmp_path / "n1"), record.boot_id, lambda _: None)
    found = table.look().found["web-1"]
    assert found.pid == record.pid
    found.close()
    os.kill(record.pid, signal.SIGKILL)
    assert (await anext(nodes[0].changes())).status == "gone"
    assert Folder(tmp_path / "n1", "web-1").load() is None


async def test_two_nodes_do_not_run_the_same(nodes: tuple[EmbodiedDriver, EmbodiedDriver]) -> None:
    one, two = nodes
    await one.start(machine_spec())
    with pytest.raises(LeaseRefused, match="belongs to node n1"):
        await two.start(machine_spec())
    with pytest.raises(Locked, match="still runs"):
        await two.start(machine_spec(generation=2))
    await one.kill("web-1")
    await two.start(machine_spec(generation=3))
    with pytest.raises(LeaseRefused, match="is of the past"):
        await one.start(machine_spec(generation=2))


async def test_a_start_that_fails_leaves_no_body(tmp_path: Path, nodes: tuple[EmbodiedDriver, EmbodiedDriver]) -> None:
    nodes[0].host.params = SimParams(start_fails=1.0)
    with pytest.raises(Exception, match="simulated failure"):
        await nodes[0].start(machine_spec())
    assert Folder(tmp_path / "n1", "web-1").load() is None
    nodes[0].host.params = PARAMS
    await nodes[0].start(machine_spec(generation=2))


def test_a_body_ends_with_its_agent(tmp_path: Path) -> None:
    (tmp_path / "pool").mkdir()
    code = f"""
import asyncio, os
from pathlib import Path
from tests.contract.driver_rigs import machine_spec
from tests.contract.test_sim_bodies import driver
async def main():
    one = driver(Path({str(tmp_path)!r}), "n1")
    await one.open()
    await one.start(machine_spec())
    print(one._bodies.all["web-1"].process.pid, flush=True)
    os.kill(os.getpid(), 9)
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    pid = int(done.stdout)
    until(lambda: not Path(f"/proc/{pid}").exists() or " Z " in Path(f"/proc/{pid}/stat").read_text(), "it has ended")
