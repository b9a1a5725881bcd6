"""Faults to play with on an embedded cluster: `asvctl lab kill|freeze|stall|cut|heal NODE`.

kill     power loss: the agent, the watchdog and the VMs end at once and stay off
freeze   the agent hangs (SIGSTOP); watchdog and VMs run on. With --all they hang, too, as on a host that is suspended
stall    freeze --all for some seconds, shorter than a lease or longer: it goes on by itself
cut      the agent's line to NATS is closed and what runs through it reset; agent and VMs run on
heal     undoes whichever of them was played
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from signal import SIGCONT, SIGSTOP
from typing import TYPE_CHECKING

from services.cluster import vms
from services.cluster.layout import NODES
from services.cluster.processes import send

STALL_S_MAX = 600.0

if TYPE_CHECKING:
    from services.cluster.supervisor import Supervisor


class Lab:
    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._suspended: set[str] = set()
        self._stalls: dict[str, asyncio.Task[None]] = {}

    async def play(self, verb: str, node: str, *, all: bool = False, for_s: float = 0.0) -> str:
        """Returns what was done, as a sentence. Raises ValueError with one for what cannot be."""
        plays: dict[str, Callable[[str], Awaitable[str]]] = {
            "kill": self._kill, "freeze": self._suspend if all else self._freeze, "cut": self._cut, "heal": self._heal,
            "stall": lambda node: self._stall(node, for_s),
        }  # fmt: skip
        if verb not in plays:
            raise ValueError(f"{verb!r} is no fault; there are {', '.join(plays)}")
        if all and verb != "freeze":
            raise ValueError(f"{verb} concerns the whole node already: --all belongs to freeze")
        if node not in NODES:
            raise ValueError(f"{node!r} is no node of this cluster; there are {', '.join(NODES)}")
        if node not in self._supervisor.children:
            raise ValueError(f"the agent of {node} was not started yet")
        if verb != "stall" and (stall := self._stalls.pop(node, None)) is not None:
            stall.cancel()
        sentence = await plays[verb](node)
        self._supervisor.changed()
        return sentence

    async def _kill(self, node: str) -> str:
        await self._supervisor.wardens[node].off()
        await self._supervisor.children[node].off()
        hit = vms.running(self._supervisor.layout, node)
        await asyncio.to_thread(vms.kill, hit)
        names = ", ".join(vm.vm for vm in hit) or "none ran"
        return f"{node} has lost its power (VMs: {names})"

    async def _freeze(self, node: str) -> str:
        child = self._supervisor.children[node]
        if not child.signal(SIGSTOP):
            raise ValueError(f"the agent of {node} does not run")
        child.record.state = "frozen"
        return f"the agent of {node} hangs"

    async def _suspend(self, node: str) -> str:
        said = await self._freeze(node)
        self._suspended.add(node)
        self._supervisor.wardens[node].signal(SIGSTOP)
        hit = vms.running(self._supervisor.layout, node)
        for vm in hit:
            send(vm.mark, SIGSTOP)
        return f"{said}, and so do its watchdog and its VMs ({', '.join(vm.vm for vm in hit) or 'none ran'})"

    async def _stall(self, node: str, for_s: float) -> str:
        if not 0 < for_s <= STALL_S_MAX:
            raise ValueError(f"{for_s:g} s is no time to stand still for: more than none, {STALL_S_MAX:g} s at most")
        if node in self._suspended:
            raise ValueError(f"{node} stands still already; heal it first")
        said = await self._suspend(node)
        self._stalls[node] = asyncio.create_task(self._go_on(node, for_s))
        return f"{said}, for {for_s:g} s"

    async def _go_on(self, node: str, after_s: float) -> None:
        await asyncio.sleep(after_s)
        self._wake(node)
        self._stalls.pop(node, None)
        self._supervisor.changed()

    def _wake(self, node: str) -> None:
        """What was stopped goes on: the watchdog first, the agent last."""
        self._supervisor.wardens[node].signal(SIGCONT)
        if node in self._suspended:  # else a VM that stands still does so by its watchdog's hand
            self._suspended.discard(node)
            for vm in vms.running(self._supervisor.layout, node):
                send(vm.mark, SIGCONT)
        child = self._supervisor.children[node]
        child.signal(SIGCONT)
        if child.record.state in ("frozen", "cut"):
            child.record.state = "ready"

    async def _cut(self, node: str) -> str:
        line = self._supervisor.lines.get(node)
        if line is None:
            raise ValueError("with a NATS that is not embedded there is no line to cut")
        await line.cut()
        self._supervisor.children[node].record.state = "cut"
        return f"{node} is cut from the bus"

    async def _heal(self, node: str) -> str:
        child = self._supervisor.children[node]
        if node in self._supervisor.lines:
            await self._supervisor.lines[node].heal()
        self._wake(node)
        await self._supervisor.wardens[node].start()
        child.start()
        return f"{node} is whole again"
