"""Simulated nodes of several processes: nothing is shared but a folder, where guests are handed over."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from services.node.drivers import CannotMove, Driver
from services.node.drivers.simmeet import Guest, Meeting
from services.node.drivers.simulated import SimHost, SimParams, SimPool, SimulatedDriver
from tests.contract.driver_rigs import machine_spec
from tests.contract.test_driver_moves import over


def node(name: str, folder: Path) -> SimulatedDriver:
    params = SimParams(start_us=20_000, jitter_us=5_000, boot_us=50_000, move_us=50_000)
    return SimulatedDriver(SimHost(name, params, Random(name), SimPool(any_file=True, id="one", meeting=Meeting(folder))))


async def moved(here: Driver, there: Driver, incoming: int) -> None:
    waiting = await there.receive(machine_spec(generation=incoming))
    with pytest.raises(CannotMove):
        await there.activate("web-1")
    changes = here.changes()
    await here.send("web-1", waiting.address)
    assert (await over(changes)).status == "sent"


async def test_a_guest_goes_from_process_to_process_and_back(tmp_path: Path) -> None:
    here, there = node("n1", tmp_path), node("n2", tmp_path)
    await here.open()
    await there.open()
    await here.start(machine_spec())
    await moved(here, there, 2)
    await here.kill("web-1")
    assert (await there.activate("web-1")).status == "paused"
    await there.resume("web-1")
    assert (await there.info("web-1")).status == "running"
    await moved(there, here, 3)
    await there.kill("web-1")
    assert (await here.activate("web-1")).generation == 3
    await here.kill("web-1")
    assert list(tmp_path.iterdir()) == []
    await here.close()
    await there.close()


async def test_nobody_comes_in_where_nobody_waits(tmp_path: Path) -> None:
    here, there = node("n1", tmp_path), node("n2", tmp_path)
    await here.open()
    await there.open()
    await here.start(machine_spec())
    waiting = await there.receive(machine_spec(generation=2))
    await there.kill("web-1")
    changes = here.changes()
    await here.send("web-1", waiting.address)
    assert (await over(changes)).unsent
    assert [m.status for m in await here.open()] == ["running"]
    await here.close()
    await there.close()


def test_one_that_ran_on_elsewhere_is_known(tmp_path: Path) -> None:
    meeting, guest = Meeting(tmp_path), Guest(1, 2, 3, 0.0)
    assert not meeting.hand("a", guest) and meeting.take("a") is None
    meeting.wait("a")
    assert meeting.hand("a", guest) and not meeting.hand("a", guest)
    assert meeting.take("a") == guest and not meeting.stale("a")
    meeting.run_on("a")
    assert meeting.stale("a")
    meeting.leave("a")
    assert list(tmp_path.iterdir()) == []
