"""A node is removed in good order: its agent takes away what it made of this host, and only that, and says what is left."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest

from libs.common.bus import Incoming
from libs.common.bus.memory import Hub, MemoryBus
from libs.common.clock import SystemClock
from libs.common.messages import Envelope, NodeId, Reply, encode
from proto.machine import Priority
from proto.memory import Area
from proto.node import Heard
from proto.nodes import OrderLeave
from services.node import leaving
from services.node.app import asked_to_leave
from services.node.drivers.simhost import SimHost
from services.node.drivers.simparams import SimParams
from services.node.drivers.simulated import SimulatedDriver
from services.node.host import areas, cgroup_left
from services.node.host.areas import area_of
from services.node.host.cgroup import Groups
from services.node.host.cgroup_tree import Limits
from services.node.keep import Keep
from services.node.runner import AgentRunner
from tests.contract.driver_rigs import machine_spec
from tests.contract.test_memory_areas import CLASSES

N1 = NodeId("n1")


class Compute:
    """Hears facts; away: how many times more it does not."""

    def __init__(self) -> None:
        self.left: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.away = 0
        self.answer = Reply(status="accepted")

    async def hear(self, message: Incoming) -> None:
        fact = msgspec.msgpack.decode(msgspec.msgpack.decode(message.data, type=Envelope).data)
        if fact["type"] != "report_left":
            await message.respond(encode(Reply(status="accepted")))
        elif self.away:
            self.away -= 1
            await message.respond(encode(Reply(status="unavailable")))
        else:
            self.left.put_nowait(fact)
            await message.respond(encode(self.answer))


class Node:
    def __init__(self, folder: Path) -> None:
        self.state = folder
        self.bus, self.compute = MemoryBus(Hub()), Compute()
        clock = SystemClock()
        self.driver = SimulatedDriver(SimHost("n1", SimParams(start_us=1000, jitter_us=1, boot_us=1000), Random(1)), clock)
        self.agent = AgentRunner(N1, "boot-1", self.driver, Keep(folder / "kept"), self.bus, clock, lambda: (4096, 0.1))
        (folder / "keys").mkdir()
        (folder / "keys/n1.jwt").write_text("who it was")

    async def order(self, incarnation: int = 1) -> bool:
        data = await self.bus.request("order.n1", encode(OrderLeave(node="n1", version=4, incarnation=incarnation)), timeout_s=5)
        return msgspec.msgpack.decode(data, type=Heard).accepted

    async def leave(self) -> bool:
        return await leaving.leave(N1, self.state, "boot-1", self.agent.tell_left)


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    made = Node(tmp_path)
    for service in ("compute", "memory", "io"):
        await made.bus.serve(f"fact.n1.{service}", made.compute.hear)
    yield made
    await made.agent.stop()


async def test_an_agent_that_is_asked_ends_its_work_and_forgets_who_it_was(node: Node) -> None:
    await node.agent.start()
    serving = asyncio.create_task(asked_to_leave(node.agent, N1, asyncio.Event()))
    assert await node.order()
    async with asyncio.timeout(20):
        assert await serving
        node.compute.away = 1
        assert await node.leave()
        fact = await node.compute.left.get()
    assert not fact.get("left") and not fact.get("refused"), "said again until it was heard"
    assert (node.state / leaving.LEFT).exists() and not (node.state / "keys/n1.jwt").exists()


async def test_while_a_vm_runs_it_says_so_and_goes_on(node: Node) -> None:
    await node.driver.start(machine_spec("web-1"))
    await node.agent.start()
    stop = asyncio.Event()
    serving = asyncio.create_task(asked_to_leave(node.agent, N1, stop))
    assert await node.order()
    async with asyncio.timeout(20):
        fact = await node.compute.left.get()
        assert fact["refused"] == "n1 still runs web-1: nothing of it was taken away"
        assert (node.state / "keys/n1.jwt").exists() and not serving.done()
        stop.set()
        assert not await serving, "told to stop, it stays a member"


async def test_an_order_of_a_lost_timeline_is_not_followed(node: Node) -> None:
    await node.agent.start()
    node.agent.agent.incarnation = 3
    assert not await node.order(incarnation=2) and not node.agent.leave_asked.is_set()


@pytest.mark.parametrize(("reason", "goes"), [("NODE_UNKNOWN", True), ("NOT_PERMITTED", False)])
async def test_who_is_removed_already_goes_and_who_is_refused_begins_again(node: Node, reason: str, goes: bool) -> None:
    await node.agent.start()
    node.compute.answer = Reply(status="refused", reason=reason, sentence="no")
    async with asyncio.timeout(20):
        assert await node.leave() is goes
    assert (node.state / "keys/n1.jwt").exists() is not goes


# --- what was made of this host ------------------------------------------------------------------------------------------


@pytest.fixture
def groups() -> Groups:
    made = Groups(name=f"asv-left-{os.getpid()}")
    if made.area("") is None:
        pytest.skip("this process may not make control groups for memory here")
    return made


def there(groups: Groups) -> list[Path]:
    return [folder for top in groups.folders for folder in top.parent.glob(f"{groups.name}*")]


def test_control_groups_and_areas_go_and_those_of_others_stay(groups: Groups, tmp_path: Path) -> None:
    other = Groups(name=f"asv-other-{os.getpid()}")
    assert areas.apply(groups, [Area(name="host", min_mib=1), *(Area(name=name, max_mib=64) for name in CLASSES)]) == []
    groups.make("web-1", Limits(memory_mib_max=64), area_of(Priority.NORMAL))
    cgroup_left.remember(tmp_path, groups.folders)
    assert there(groups)
    assert leaving.clear(tmp_path, "boot-1") == () and there(groups) == []
    assert there(other) and not (tmp_path / cgroup_left.LIST).exists()
    assert leaving.clear(tmp_path, "boot-1") == (), "said twice it changes nothing"
    cgroup_left.remember(tmp_path, other.folders)
    assert leaving.clear(tmp_path, "boot-1") == () and there(other) == []


def test_a_process_that_leaves_the_area_it_stands_in_is_back_where_it_came_from(groups: Groups, tmp_path: Path) -> None:
    """As the agent does, which stands in its own area: another process, for this one is not to be moved about."""
    cgroup_left.remember(tmp_path, groups.folders)
    program = (
        "import sys; from pathlib import Path; from services.node import leaving; from services.node.host import areas;"
        "from services.node.host.cgroup import Groups; before = Path('/proc/self/cgroup').read_text();"
        "assert areas.shelter(Groups(name=sys.argv[1])) and Path('/proc/self/cgroup').read_text() != before;"
        "assert leaving.clear(Path(sys.argv[2]), 'boot-1') == (); assert Path('/proc/self/cgroup').read_text() == before"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, groups.name, str(tmp_path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "") and there(groups) == []


def test_what_somebody_stands_in_stays_and_is_said(groups: Groups, tmp_path: Path) -> None:
    cgroup_left.remember(tmp_path, groups.folders)
    with subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE) as process:
        assert areas.join(groups, "storage", process.pid)
        (said,) = leaving.clear(tmp_path, "boot-1")
        assert said.startswith("control group ") and said.endswith(f"{groups.name}-storage: Device or resource busy")
        process.kill()
    assert leaving.clear(tmp_path, "boot-1") == () and there(groups) == []


def test_groups_that_an_earlier_agent_made_elsewhere_are_not_forgotten(groups: Groups, tmp_path: Path) -> None:
    folders = list(groups.folders)
    elsewhere = folders[0].parent / f"asv-elsewhere-{os.getpid()}"
    elsewhere.mkdir()
    cgroup_left.remember(tmp_path, [elsewhere])
    cgroup_left.remember(tmp_path, folders)
    lines = (tmp_path / cgroup_left.LIST).read_text().splitlines()
    assert lines == [str(elsewhere), *map(str, folders)]
    assert leaving.clear(tmp_path, "boot-1") == () and not elsewhere.exists()
    cgroup_left.remember(tmp_path, [elsewhere])
    cgroup_left.remember(tmp_path, folders)
    assert str(elsewhere) not in (tmp_path / cgroup_left.LIST).read_text(), "it is gone"
