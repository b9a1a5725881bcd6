"""The daemon behind `make up`: brings the cluster up in order, keeps it up, takes it down in reverse.

starting ──all ready──▶ healthy ──SIGTERM or `stop`──▶ stopping ──▶ stopped

Its children die with it (the kernel sees to that); VMs do not, for they are sessions of their own. One runs per state folder
(flock). What a killed one left is ended first, known by pid and start time.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import IO

from libs.common.clock import SystemClock
from proto.services import CONTROL
from services.cluster import (
    apart,
    bring_up,
    groups,
    identities,
    nats,
    networks,
    plan,
    ports,
    postgres,
    record,
    watchdogs,
)
from services.cluster.apart import Cable
from services.cluster.child import Child, Spec, end_leftovers, trim
from services.cluster.control import Control
from services.cluster.cut import Line
from services.cluster.identities import Identities
from services.cluster.lab import Lab
from services.cluster.layout import NODES, Layout
from services.cluster.processes import mark_of
from services.cluster.record import ChildRecord, Record
from services.cluster.standing import Standing, enter
from services.cluster.watchdogs import Warden

log = logging.getLogger(__name__)

START_S_MAX = 120.0
TRIM_S = 30.0


class AlreadyRuns(Exception):
    """Another supervisor holds this state folder."""


class Supervisor:
    """One cluster of one state folder. `run` returns once all is stopped."""

    def __init__(self, layout: Layout, environ: Mapping[str, str], record: Record, standing: Standing) -> None:
        self.layout = layout
        self.environ = environ
        self.record = record
        self.standing = standing
        self.children: dict[str, Child] = {}
        self.wardens = {node: Warden(layout, record, standing, node, self.changed) for node in NODES}
        self.lines: Mapping[str, Line | Cable] = {}
        self.hub: list[Line] = []
        self.control = Control(layout)
        self.lab = Lab(self)
        self._stopping = asyncio.Event()
        self._dirty = asyncio.Event()

    # --- the way up and down -------------------------------------------------------------------------------------------

    async def run(self, bound: Callable[[], None]) -> None:
        """bound: called once the control socket takes requests."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        self.record.supervisor = mark_of(os.getpid())
        self.record.state = "starting"
        await self.control.open(self._answer)
        chores = [asyncio.create_task(self._save_changes()), asyncio.create_task(self._trim_logs())]
        bound()
        starting = asyncio.create_task(self._bring_up())
        try:
            await self._stopping.wait()
        finally:
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
            await self._take_down()
            for chore in chores:
                chore.cancel()
            await self.control.close()

    async def _bring_up(self) -> None:
        began = time.monotonic()
        try:
            async with asyncio.timeout(START_S_MAX):
                await self._start_all()
        except TimeoutError:
            late = [name for name, child in self.children.items() if child.record.state != "ready"]
            self.control.settle(False, f"not ready after {START_S_MAX:.0f} s, and still tried: {', '.join(late)}")
            return
        except Exception as error:  # told to whoever waits; `down` ends what runs
            self.control.settle(False, f"{type(error).__name__}: {error}")
            return
        self.record.state = "healthy"
        self.changed()
        self.control.settle(True, f"healthy after {time.monotonic() - began:.1f} s")

    async def _start_all(self) -> None:
        ended = [child.mark for child in self.record.children.values() if child.mark is not None]
        old = self.record.children.get("postgres", ChildRecord()).mark
        await asyncio.to_thread(end_leftovers, ended, old)
        self.record.children = {}
        self.record.ports |= ports.choose(self.record.ports, plan.port_names(self.environ))
        engines = await asyncio.to_thread(plan.engines, self.layout, self.record, self.environ)
        self._note_outside(engines)
        self.record.log, self.record.log_owner = engines.dsn_of("asv_reader"), engines.dsn
        self.record.archive = self.environ.get("ASV_LOG_ARCHIVE") or self.record.archive or str(self.layout.archive)
        known = await asyncio.to_thread(self._identities, engines)
        await self._start_engines(engines, known)
        await self._ready_all(plan.control_specs(self.layout, self.record, engines, known))
        if why := await asyncio.to_thread(networks.make, self.layout.home):
            log.info("nodes have no networks of their own: %s", why)
            if self.record.apart:
                self.control.say(f"nodes are not apart: {why}")
            self.record.apart = False
        self.lines = await self._open_lines()
        self.record.watchdogs = {node: warden.record for node, warden in self.wardens.items()}
        await watchdogs.start_all(self.wardens.values())
        await self._ready_all([
            bring_up.with_join_token(
                self.layout, self.record, plan.agent_spec(self.layout, self.record, engines, node, self.standing)
            )
            for node in NODES
        ])  # fmt: skip
        await bring_up.nodes_online(self.layout, self.record)
        await bring_up.tiny_image(self.layout, self.record, engines, known, self.control.say)

    async def _start_engines(self, engines: plan.Engines, known: Identities) -> None:
        specs = {spec.name: spec for spec in plan.engine_specs(self.layout, engines)}
        waits: list[Awaitable[None]] = []
        if engines.nats is not None:
            nats.configure(engines.nats, known.server)
            waits.append(self._begin(specs["nats"]).wait_ready())
        if engines.postgres is not None:
            if not engines.postgres.data.exists():
                self.control.say("postgres: making its data folder, once")
            await asyncio.to_thread(postgres.prepare, engines.postgres)
            waits.append(self._begin(specs["postgres"]).wait_ready())
        await asyncio.gather(*waits)
        await bring_up.migrate(self.layout, engines.dsn)

    async def _ready_all(self, specs: list[Spec]) -> None:
        await asyncio.gather(*(self._begin(spec).wait_ready() for spec in specs))

    async def _open_lines(self) -> Mapping[str, Line | Cable]:
        if "nats" not in self.children:
            self.record.apart = False
            return {}
        if self.record.apart:
            return await self._open_cables()
        lines = {node: Line(self.record.ports[f"line-{node}"], self.record.ports["nats"]) for node in NODES}
        for line in lines.values():
            await line.heal()
        return lines

    async def _open_cables(self) -> dict[str, Cable]:
        await asyncio.to_thread(apart.make, self.layout.home)
        ports = (self.record.ports["nats"], self.record.ports["gateway"])
        self.hub = [Line(port, port, partial(apart.listening, self.layout.home)) for port in ports]
        for line in self.hub:
            await line.heal()
        return {node: Cable(self.layout.home, node) for node in NODES}

    async def _take_down(self) -> None:
        """Agents first, together; then the gateway, the services, the engines, each once those before it are gone."""
        self.record.state = "stopping"
        self.changed()
        engines = [name for name in ("nats", "postgres") if name in self.children]
        agents = [name for name in self.children if name in NODES]
        services = [name for name in self.children if name not in (*NODES, "nats", "postgres", "gateway")]
        for stage in (agents, [name for name in ("gateway",) if name in self.children], services, engines):
            await asyncio.gather(*(self.children[name].stop() for name in stage))
        await asyncio.gather(*(warden.stop() for warden in self.wardens.values()))
        for line in (*self.lines.values(), *self.hub):
            await line.cut()
        self.record.state = "stopped"
        self.record.supervisor = None
        record.save(self.layout.record, self.record)

    def _begin(self, spec: Spec) -> Child:
        child = Child(spec, self.changed)
        self.children[spec.name] = child
        self.record.children[spec.name] = child.record
        child.start()
        return child

    def _identities(self, engines: plan.Engines) -> Identities:
        if engines.nats is None:
            given = self.environ.get("ASV_NATS_CREDS")
            return Identities(self.layout.keys if given else None)
        now_us = SystemClock().now_us()
        return identities.prepare(self.layout.keys, engines.nats.port, CONTROL, self.record.separate, now_us)

    def _note_outside(self, engines: plan.Engines) -> None:
        """Folders beyond the home, for destroy; on disk before anything is put into them for long."""
        server = engines.postgres
        used = [server.base, server.sockets, server.binaries] if server else []
        used += [engines.nats.base, engines.nats.binary] if engines.nats else []
        found = {str(place) for path in used for place in bring_up.outside_places(self.layout.home, path)}
        self.record.outside = sorted({*self.record.outside, *found})
        record.save(self.layout.record, self.record)

    # --- what is told, and asked ---------------------------------------------------------------------------------------

    def changed(self) -> None:
        """A child's state, or ours, is another: tell whoever watches, and write it down."""
        self.control.tell(self.record)
        self._dirty.set()

    async def _save_changes(self) -> None:
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            await asyncio.to_thread(record.save, self.layout.record, self.record)

    async def _trim_logs(self) -> None:
        while True:
            await asyncio.sleep(TRIM_S)
            for log in self.layout.logs.glob("*.log"):
                await asyncio.to_thread(trim, log)

    async def _answer(self, words: list[str]) -> str:
        """One request over the control socket. Raises ValueError with a sentence for what is not understood."""
        match words:
            case ["stop"]:
                self._stopping.set()
                return "stopping"
            case ["lab", verb, node, *more] if more in ([], ["all"]):
                return await self.lab.play(verb, node, all=bool(more))
            case ["lab", "stall", node, for_s]:
                return await self.lab.play("stall", node, for_s=float(for_s))
            case _:
                right = "`stop`, `lab VERB NODE [all]` and `lab stall NODE SECONDS`"
                raise ValueError(f"{' '.join(words)!r} is not understood; right are {right}")


def hold(layout: Layout) -> IO[str]:
    """Takes the lock of a state folder for as long as the file stays open. Raises AlreadyRuns."""
    file = layout.lock.open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise AlreadyRuns(f"a supervisor runs in {layout.home} already") from None
    return file


def serve(layout: Layout, environ: Mapping[str, str], chosen: Record, bound: Callable[[], None]) -> None:
    """The daemon's whole life. Raises AlreadyRuns."""
    with hold(layout), contextlib.suppress(asyncio.CancelledError):
        standing = enter(layout.home, NODES)
        if standing.top is None:
            log.info("the control plane stands in no memory area of its own: %s", standing.why)
        groups.remember(layout.groups, standing.top)
        asyncio.run(Supervisor(layout, environ, chosen, standing).run(bound))
