"""The nodes' watchdogs (services/watchdog): kept running beside the agents, and nobody's children, as VMs are: they outlive agents
and the supervisor, which adopts those that it finds. Ended with the cluster only where they guard nothing.

A watchdog that dies is followed by another within a tenth of a second, which goes on with its lease (docs/watchdog.md).
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGTERM, Signals

import msgspec

from services.cluster import apart, plan, vms
from services.cluster.child import PAUSE_S_MAX, PAUSE_S_MIN, STEADY_S
from services.cluster.layout import CHECKOUT, NODES, Layout
from services.cluster.ports import LOOPBACK
from services.cluster.processes import Mark, alive, end, mark_of, send, wait_gone
from services.cluster.record import ChildRecord, Record
from services.cluster.standing import Standing, join

MAIN = CHECKOUT / "services" / "watchdog" / "__main__.py"
POLL_S = 0.02
READY_S_MAX = 10.0
END_S_MAX = 5.0


def mark(layout: Layout, node: str) -> Mark | None:
    """Of the one that runs there now."""
    try:
        found = msgspec.json.decode((layout.node(node) / "watchdog" / "pid").read_bytes(), type=Mark)
    except (OSError, msgspec.MsgspecError):
        return None
    return found if alive(found) else None


def end_idle(layout: Layout, *, all: bool = False) -> None:
    """Those that guard nothing, as their nodes run no VM. all: whether they do or not."""
    idle = [node for node in NODES if all or not vms.running(layout, node)]
    marks = [found for node in idle if (found := mark(layout, node)) is not None]
    for found in marks:
        send(found, SIGCONT)
    end(marks, SIGKILL if all else SIGTERM, END_S_MAX)


class Warden:
    """Keeps one node's watchdog running. `changed` is called after each change of `record`."""

    def __init__(self, layout: Layout, cluster: Record, standing: Standing, node: str, changed: Callable[[], None]) -> None:
        self.node = node
        self.record = ChildRecord()
        self._layout = layout
        self._cluster = cluster
        self._standing = standing
        self._changed = changed
        self._task: asyncio.Task[None] | None = None
        self._spawning = asyncio.Lock()

    async def start(self) -> None:
        """Returns once it runs; nothing happens where that is so already."""
        if self._task is None:
            self._task = asyncio.create_task(self._keep())
        async with asyncio.timeout(READY_S_MAX):
            while self.record.state != "ready":  # noqa: ASYNC110
                await asyncio.sleep(POLL_S)  # another process's state: nothing here could wake us

    async def stop(self) -> None:
        """Kept no more. It runs on where it guards anything."""
        await self._let_go()
        if not await asyncio.to_thread(vms.running, self._layout, self.node):
            send(self.record.mark, SIGTERM)
            await asyncio.to_thread(wait_gone, self.record.mark, END_S_MAX)
        self._set("stopped", self.record.mark)

    async def off(self) -> None:
        """Ends it at once, as a power cut would; it stays off until `start`."""
        await self._let_go()
        send(self.record.mark, SIGKILL)
        await asyncio.to_thread(wait_gone, self.record.mark, END_S_MAX)
        self._set("off", None)

    def signal(self, number: Signals) -> bool:
        return send(self.record.mark, number)

    async def _let_go(self) -> None:
        async with self._spawning:  # never between its start and knowing which it is
            task, self._task = self._task, None
            if task is not None:
                task.cancel()
        if task is not None:
            await asyncio.gather(task, return_exceptions=True)

    async def _keep(self) -> None:
        pause_s = PAUSE_S_MIN
        while True:
            began = time.monotonic()
            async with self._spawning:
                if (found := mark(self._layout, self.node)) is None:
                    found = await asyncio.to_thread(self._spawn)
                self._set("ready", found)
            await _gone(found)
            self.record.restarts += 1
            self._set("waiting", None, "it has ended")
            if time.monotonic() - began < STEADY_S:
                await asyncio.sleep(pause_s)
            pause_s = PAUSE_S_MIN if time.monotonic() - began > STEADY_S else min(2 * pause_s, PAUSE_S_MAX)

    def _spawn(self) -> Mark | None:
        """One of its own session, on which neither our end nor a terminal's has a bearing."""
        node, inside = self.node, plan.home_of(self._layout, self._cluster, self.node)
        host = apart.address(node) if inside is not None else LOOPBACK
        environment = plan.base_environment(self._layout) | {
            "ASV_NODE": node,
            "ASV_STATE": str(self._layout.node(node)),
            "ASV_POOLS": plan.pools_of(self._layout, node),
            "ASV_WATCH_LISTEN": f"{host}:0",
        }
        group = self._standing.watchdogs.get(node)
        with self._layout.log(f"watchdog-{node}").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(MAIN)], env=environment, cwd=CHECKOUT, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, start_new_session=True, preexec_fn=lambda: _place(group, inside),  # noqa: PLW1509
            )  # fmt: skip
        own = mark_of(process.pid)
        until = time.monotonic() + READY_S_MAX
        while process.poll() is None and mark(self._layout, node) is None and time.monotonic() < until:
            time.sleep(POLL_S)
        return own

    def _set(self, state: str, found: Mark | None, sentence: str = "") -> None:
        self.record.state, self.record.mark, self.record.sentence = state, found, sentence
        self._changed()


async def start_all(wardens: Iterable[Warden]) -> None:
    await asyncio.gather(*(warden.start() for warden in wardens))


def _place(group: Path | None, inside: Path | None) -> None:
    if group is not None:
        join(group)
    if inside is not None:
        apart.enter(inside)


async def _gone(found: Mark | None) -> None:
    """Until that process has ended, whoever's child it is; ours is reaped."""
    if found is None:
        return
    try:
        descriptor = os.pidfd_open(found.pid)
    except ProcessLookupError:
        return
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(descriptor, ended.set)
    try:
        if alive(found):
            await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
    try:
        os.waitpid(found.pid, os.WNOHANG)  # noqa: ASYNC222
    except ChildProcessError:
        return  # adopted: another reaps it
