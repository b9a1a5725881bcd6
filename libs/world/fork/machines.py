"""Simulated nodes as the log has them: what each said it can do, in which boot, with which lease."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from libs.lease.effects import Saved, State
from libs.world.area import Area
from services.compute.nodes import Member
from services.ha.states import Isolated, Lost, Suspected
from services.node.drivers.simcpu import SimCpu
from services.node.drivers.simparams import SimParams
from services.node.effects import NODE_RECORD, Kept

if TYPE_CHECKING:
    from libs.world.world import World


@dataclass(frozen=True, slots=True)
class Machine:
    """lease: None where it never had one. dark: why it is taken to have no power; cut: why the control plane does not reach it."""

    name: str
    member: Member
    lease: Any = None
    dark: str = ""
    cut: str = ""


def machines(states: Mapping[str, Any]) -> list[Machine]:
    """Those that have ever reported, and were not removed."""
    members = {stream.removeprefix("node-"): state for stream, state in states.items() if stream.startswith("node-")}
    known = sorted((name, state) for name, state in members.items() if isinstance(state, Member))
    return [_machine(name, member, states.get(f"lease-{name}")) for name, member in known]


def _machine(name: str, member: Member, lease: Any) -> Machine:
    """The log does not say what becomes of a node that is silent: the worst is assumed."""
    match lease:
        case Lost():
            return Machine(name, member, lease, dark=f"{name} was lost")
        case Suspected():
            return Machine(name, member, lease, dark=f"{name} was silent on two paths")
        case Isolated():
            return Machine(name, member, lease, cut=f"{name} was alive and could not be reached")
    return Machine(name, member, lease)


def params(machine: Machine, times: SimParams) -> SimParams:
    can = machine.member.capabilities
    return replace(
        times, pcpus=can.pcpus, memory_mib=can.memory_mib, cells=max(1, len(can.cells)), swap_mib=can.swap_mib,
        balloon=can.balloon,
    )  # fmt: skip


def put(world: World, machine: Machine, times: SimParams, incarnation: int) -> None:
    """Into a world that has not begun."""
    node, can = world.agents[machine.name], machine.member.capabilities
    node.host.params = params(machine, times)
    node.memory.total_mib, node.memory.swap_mib = can.memory_mib, can.swap_mib
    node.says, node.address, node.health = can, machine.member.address, machine.member.health
    node.reaches(dict(can.pool_ids), can.lease_pools)
    node.leased = bool(world.ha and (can.watch_at or can.watchdog))
    node.host.first = machine.member.boot_id
    node.host.bridges = can.bridges
    if can.cells:
        node.host.cpu = SimCpu(can.cells)
    if incarnation > 1:
        node.disk[NODE_RECORD] = Kept(NODE_RECORD, 0, 0, incarnation=incarnation)
    node.watchdog.saved = saved(machine)
    if machine.dark:
        node.powered = False
    if machine.cut:
        world.net.cut.add(machine.name)


def saved(machine: Machine) -> Saved | None:
    """What its watchdog has on disk: a lease that was renewed just now, as far as anybody has said otherwise."""
    lease = machine.lease
    if lease is None or not lease.boot_id:
        return None
    state = State.ENDED if isinstance(lease, Lost) else State.HELD
    return Saved(
        lease.boot_id, str(state), lease.epoch, lease.term, 0, 0, lease.times.lease_us, lease.tolerant, lease.pools, lease.letter,
    )  # fmt: skip


def areas(world: World) -> dict[str, Area]:
    return {word: Area(world.net) for node in world.agents.values() for word in node.pool_words}

