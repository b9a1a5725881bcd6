"""One trial: a fork is let settle, what the variant does is done, and it runs on until nothing happens any more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from libs.common.messages import Recorded
from libs.world.fork.beats import SECOND_US, Moment, beats
from libs.world.fork.fork import Fork, begin
from libs.world.fork.timings import Timings
from libs.world.nodes import NodeProcess
from libs.world.whatif.acts import Asked, act, set_policy
from libs.world.whatif.variant import Variant
from libs.world.world import World
from services.compute.states import Absent, Defined, Running, Stopped
from services.ha.states import Lost
from services.memory.states import Ledger

SETTLE_S = 12.0
"""in which what was in flight goes on, and the grantor of the fork may conclude something"""
POLICY_S = 5.0
"""in which a policy takes hold"""
LEAST_S, QUIET_S, SECONDS_MAX = 20.0, 10.0, 600.0
"""a trial runs at least so long, and until it was quiet for so long; at most so long"""
NEWS = frozenset(
    {
        *("node_lost", "vm_owed", "vm_recovered", "vm_start_requested", "vm_started", "vm_start_failed", "vm_stopped"),
        *("vm_defined", "vm_migration_requested", "vm_migrated", "vm_migration_ended", "capacity_set", "ladder_climbed"),
    }
)
"""events after which something more is waited for: who fits nowhere is tried again and again, which is none"""


@dataclass(frozen=True, slots=True)
class Use:
    """Of a node: what is promised of it. MiB; vcpus of VMs that have it."""

    up: bool
    vms: int
    reserved_mib: int
    charged_mib: int
    capacity_mib: int
    vcpus: int
    pcpus: int


@dataclass(slots=True)
class Trial:
    """at_us: when it was done. events: since then, with their records. before, after: by node. where: VM -> node (empty: it does
    not run) before and after. meanwhile: how much of the past was still in flight, as VMs that went otherwise while it settled.
    fault: an invariant that did not hold."""

    world: World
    moment: Moment = Moment.CHANCE
    at_us: int = 0
    asked: Asked = field(default_factory=Asked)
    events: list[tuple[Recorded, Any]] = field(default_factory=list)
    before: dict[str, Use] = field(default_factory=dict)
    after: dict[str, Use] = field(default_factory=dict)
    where: dict[str, str] = field(default_factory=dict)
    ends: dict[str, str] = field(default_factory=dict)
    meanwhile: tuple[str, ...] = ()
    ran_s: float = 0.0
    fault: str = ""


def tried(fork: Fork, variant: Variant, timings: Timings, seed: int, moment: Moment = Moment.CHANCE) -> Trial:
    world = fork.world(seed, timings.params(moment))
    trial = Trial(world, moment)
    try:
        _go(fork, variant, trial)
    except AssertionError as broken:
        trial.fault = str(broken)
    return trial


def _go(fork: Fork, variant: Variant, trial: Trial) -> None:
    world, was = trial.world, nodes_of(fork.states)
    fall = beats(trial.moment, world.random, world.agents, [name for kind, name in variant.kills if kind == "node"])
    begin(world, fall)
    world.run(SETTLE_S + fall.fault / SECOND_US)
    trial.before, trial.where = uses(world), nodes_of(_states(world, "compute"))
    trial.meanwhile = tuple(sorted(vm for vm in {*was, *trial.where} if was.get(vm, "") != trial.where.get(vm, "")))
    world.begun()
    since = world.log.head_now().position
    if variant.policy:
        set_policy(world, variant.policy, trial.asked)
        world.run(POLICY_S)
    trial.at_us = world.net.now_us
    act(world, variant, trial.asked)
    _until_quiet(world, trial, since)
    trial.events = [(recorded, world.checker.event(recorded)) for recorded in world.log.read_all_now(since, 10**9)]
    trial.after, ends = uses(world), nodes_of(_states(world, "compute"))
    trial.ends = {vm: node if node not in trial.after or trial.after[node].up else "" for vm, node in ends.items()}
    trial.ran_s = (world.net.now_us - trial.at_us) / 1e6


def _until_quiet(world: World, trial: Trial, since: int) -> None:
    seen, quiet_us = since, world.net.now_us
    while world.net.now_us - trial.at_us < SECONDS_MAX * 1e6:
        world.run(1.0)
        news = [r for r in world.log.read_all_now(seen, 10**9) if r.type in NEWS]
        seen = world.log.head_now().position
        if news or waits(world):
            quiet_us = world.net.now_us
        if world.net.now_us - trial.at_us >= LEAST_S * 1e6 and world.net.now_us - quiet_us >= QUIET_S * 1e6:
            return


def waits(world: World) -> bool:
    """Something is under way: a VM between two states, or a node without power that nobody has declared lost yet."""
    compute, ha = _states(world, "compute"), _states(world, "ha")
    between = any(isinstance(s, Defined) and not isinstance(s, Stopped | Running) for s in compute.values())
    dark = [name for name, node in world.agents.items() if node.leased and not node.powered]
    held = ha.get("ha-main")
    concludes = held is not None and held.armed and not held.held
    return between or (concludes and any(not isinstance(ha.get(f"lease-{name}"), Lost) for name in dark))


def nodes_of(states: Mapping[str, Any]) -> dict[str, str]:
    """Of each VM that is defined, the node where it runs; empty: it does not."""
    vms = ((stream[3:], state) for stream, state in states.items() if stream.startswith("vm-"))
    return {vm: str(getattr(s, "node", "")) if not isinstance(s, Stopped) else "" for vm, s in vms if not isinstance(s, Absent)}


def uses(world: World) -> dict[str, Use]:
    compute, ledgers = _states(world, "compute"), _states(world, "memory")
    out: dict[str, Use] = {}
    for name, node in world.agents.items():
        here = [s for s in compute.values() if isinstance(s, Defined) and not isinstance(s, Stopped) and s.node == name]
        ledger = ledgers.get(f"ledger-{name}")
        held = ledger if isinstance(ledger, Ledger) else Ledger(capacity_mib=0)
        out[name] = Use(
            node.powered, len(here), held.reserved_mib, held.charged_mib, held.capacity_mib,
            sum(s.definition.shape.vcpus for s in here), pcpus(node),
        )  # fmt: skip
    return out


def pcpus(node: NodeProcess) -> int:
    """Of those of its host, its part."""
    share = node.says.share if node.says is not None else 1
    return max(1, node.host.params.pcpus // share)


def _states(world: World, service: str) -> dict[str, Any]:
    host = world.services[service].host
    assert host is not None, f"{service} is not up"
    return host.states()
