"""The agent, wired: `python -m services.node`; `… leave` takes away what it made of its host."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from pathlib import Path
from random import Random
from typing import Any

import psutil

from libs.common import telemetry
from libs.common.bus import BusError
from libs.common.bus.credentials import BadCredentials
from libs.common.bus.nats import NatsBus
from libs.common.clock import SystemClock
from libs.common.config import BadConfig, load
from libs.common.messages import NodeId
from proto.nodes import ReportLeft
from services.node import leaving
from services.node.asks import Asks
from services.node.config import NodeConfig
from services.node.drivers import Driver, DriverError
from services.node.file_asks import FileAsks
from services.node.host.memory import part_mib
from services.node.io_asks import IoAsks
from services.node.join import JoinRefused, credentials
from services.node.keep import Keep
from services.node.key_asks import KeyAsks
from services.node.memory_asks import MemoryAsks
from services.node.memory_watch import MemoryWatch
from services.node.network_watch import NetworkWatch
from services.node.pictures import Pictures
from services.node.runner import AgentRunner
from services.node.swapping import Swapping, Wish

log = logging.getLogger(__name__)
WATCHDOGS = ("ASV_WATCH_LISTEN", "ASV_WATCH_AT", "ASV_WATCHDOG_DEVICE")
"""settings of the watchdog, which has the agent's environment and more"""
OPEN = ("identity: the bus asks nobody who they are, so that any process that reaches it may play any other",)


def make_driver(config: NodeConfig) -> Driver:
    """The driver that the configuration names. Raises ValueError for another word."""
    if config.driver == "qemu":
        from services.node.drivers.qemu.driver import QemuDriver

        return QemuDriver(
            config.node, config.state, config.pool_folders(), share=config.share, memory_mib=config.memory_mib,
            bridges=config.bridges, network_namespace=config.network_namespace,
            moves_at=config.migration_address, control_plane=config.control_plane_group,
            remotes=config.remote_pools(), appliance=config.appliance,
        )  # fmt: skip
    if config.driver == "simulated":
        from services.node.drivers.qemu import disks
        from services.node.drivers.simbodies import Bodies, EmbodiedDriver
        from services.node.drivers.simmeet import Meeting
        from services.node.drivers.simulated import SimHost, SimParams, SimPool

        folder = min(config.pool_folders().items())[1]
        folder.mkdir(parents=True, exist_ok=True)
        pool = SimPool(any_file=True, id=disks.id_of(folder), meeting=Meeting(folder / "simulated"))
        host = SimHost(config.node, SimParams(), Random(config.node), pool)
        return EmbodiedDriver(host, Bodies(config.node, config.state, folder))
    raise ValueError(f"ASV_DRIVER: {config.driver!r} is neither qemu nor simulated")


def make_swap(config: NodeConfig) -> tuple[str, ...]:
    """Swap for VMs as the operator wants it; what of that could not be, a sentence each. Raises ValueError."""
    if config.driver != "qemu":
        return ()
    wish = Wish(
        kind=config.swap, memory_mib=part_mib(config.share), where=config.swap_device or config.state,
        swap_mib=config.swap_mib,
    )  # fmt: skip
    said = Swapping(config.state, boot_id()).prepare(wish)
    for sentence in said:
        log.warning("%s", sentence)
    return tuple(said)


def host_load() -> tuple[int, float]:
    """(memory free for use in MiB, load average over a minute)."""
    return psutil.virtual_memory().available >> 20, os.getloadavg()[0]


def boot_id() -> str:
    """This boot of the host, as the kernel names it."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


async def run(config: NodeConfig) -> None:
    """Serve until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    telemetry.start(config.node, config.otlp_endpoint, config.trace_ratio)
    who, url = await credentials(config.node, config.state / "keys", config.gateway, config.join_token_file)
    bus = await NatsBus.connect(config.nats_url or url, who, name=config.node)
    driver, clock, node = make_driver(config), SystemClock(), NodeId(config.node)
    if not driver.memory.shelter():
        log.info("%s: this agent stands in no memory area of its own", config.node)
    said = await asyncio.to_thread(make_swap, config)
    runner = AgentRunner(
        node, boot_id(), driver, Keep(config.state / "kept"), bus, clock, host_load, (*(() if who else OPEN), *said),
        Pictures(config.state / "pictures"), config.state if config.watchdog else None,
    )  # fmt: skip
    await runner.start()
    asks = Asks(node, driver, bus, clock)
    await asks.start()
    keys = KeyAsks(node, driver, bus, runner.renew)
    await keys.start()
    files = FileAsks(node, driver, bus, clock)
    await files.start()
    await MemoryAsks(node, driver, bus).start()
    await IoAsks(node, driver, bus, clock, lambda: runner.agent.vms).start()
    watch = MemoryWatch(node, boot_id(), driver, bus, clock, lambda: runner.agent.met, runner.renew)
    await watch.start()
    networks = NetworkWatch(driver, runner.renew)
    await networks.start()
    log.info("%s: ready", config.node)
    if config.ready is not None:
        config.ready.touch()
    leaves = await asked_to_leave(runner, node, stop)
    await keys.stop()
    await networks.stop()
    await watch.stop()
    await files.stop()
    await asks.stop()
    await runner.stop()
    if leaves:
        parting = asyncio.ensure_future(leaving.leave(node, config.state, boot_id(), runner.tell_left))
        await first(parting, asyncio.ensure_future(stop.wait()))
    await bus.drain()
    telemetry.stop()


async def asked_to_leave(runner: AgentRunner, node: NodeId, stop: asyncio.Event) -> bool:
    """Serves until it is told to stop (False), or to leave for good and no VM runs here (True)."""
    stopping = asyncio.ensure_future(stop.wait())
    while True:
        asked = asyncio.ensure_future(runner.leave_asked.wait())
        await asyncio.wait({asked, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if stopping.done():
            asked.cancel()
            return False
        runner.leave_asked.clear()
        if not (said := leaving.why_not(node, runner.running())):
            stopping.cancel()
            return True
        log.warning("%s", said)
        telling = asyncio.ensure_future(leaving.tell(ReportLeft(node=node, refused=said), runner.tell_left))
        await asyncio.wait({telling, stopping}, return_when=asyncio.FIRST_COMPLETED)
        telling.cancel()


async def first(*tasks: asyncio.Future[Any]) -> None:
    """Until one of them is done; the others are given up. Raises what that one raised."""
    done, others = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in others:
        task.cancel()
    for task in done:
        task.result()


def leave(config: NodeConfig) -> None:
    """What the agent made of this host is taken away again, once its VMs are gone and it has ended. Exits 1 with a sentence where
    something is left; said again, it goes on from there."""
    if left := leaving.clear(config.state, boot_id()):
        sys.exit(f"services.node: left on this host: {'; '.join(left)}; say it again once that is well")


def main() -> None:
    """Exits 2 on a wrong setting, 1 when the agent cannot begin, or (`leave`) cannot take all away."""
    try:
        config = load(NodeConfig, os.environ, WATCHDOGS)
        config.check()
    except (BadConfig, ValueError) as wrong:
        print(f"services.node: {wrong}", file=sys.stderr)
        sys.exit(2)
    if sys.argv[1:] == ["leave"]:
        leave(config)
        return
    logging.basicConfig(level=config.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        asyncio.run(run(config))
    except (BusError, BadCredentials, JoinRefused, DriverError, ValueError) as error:
        sys.exit(f"services.node: {error}")
