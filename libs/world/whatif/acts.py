"""What a variant does to a world that goes on from a recorded state. Everything is asked of the services as people ask it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from msgspec.structs import replace

from libs.world.befall import befall
from libs.world.fork.fork import Fork
from libs.world.fork.slices import CannotFork
from libs.world.story import Step
from libs.world.whatif.policy import Setting
from libs.world.whatif.variant import Variant
from libs.world.world import World
from proto.compute import DefineVm, StartVm, VmDefined
from proto.ladder import MemoryPolicy
from proto.machine import DiskWish
from proto.memory import CapacityExceeded, SetMemoryPolicy
from proto.migration import MigrateVm
from services.compute.states import Absent, Migrating, Placed, State
from services.memory.states import Ledger

BETWEEN_US, DEFINED_US = 50_000, 300_000
"""between two VMs that are added, as somebody runs a loop; and from a definition to the wish to start it"""
NAMED_MAX = 8
LEAVE_US = 3_000_000
"""after which who has to leave is known"""


@dataclass(slots=True)
class Asked:
    """Ids of what was asked (`World.replies`): what of it is refused belongs into the answer. added: VM -> like which."""

    settings: dict[str, str] = field(default_factory=dict)
    starts: dict[str, str] = field(default_factory=dict)
    moves: dict[str, str] = field(default_factory=dict)
    added: dict[str, str] = field(default_factory=dict)


def check(variant: Variant, fork: Fork) -> None:
    """Raises CannotFork where it names what is not there."""
    states, nodes = fork.states, {machine.name: machine.member.capabilities.memory_mib for machine in fork.machines}
    dark = {machine.name: machine.dark for machine in fork.machines if machine.dark}
    vms = {stream.removeprefix("vm-"): state for stream, state in states.items() if isinstance(state, State)}
    for kind, name in variant.kills:
        if kind == "node" and name not in nodes:
            raise CannotFork(f"there is no node {name} by then: there are {_named(nodes)}")
        if kind == "node" and name in dark:
            raise CannotFork(f"{dark[name]} by then, and is taken to have no power: ask about an earlier moment (--at)")
        if kind == "vm" and not isinstance(vms.get(name), Placed):
            running = [vm for vm, state in vms.items() if isinstance(state, Placed)]
            raise CannotFork(f"no VM {name} runs by then: there run {_named(running)}")
    for _, name in variant.adds:
        if isinstance(vms.get(name, Absent()), Absent):
            raise CannotFork(f"there is no VM {name} by then that others could be like: there are {_named(_defined(vms))}")
    for name, mib in _summed(variant.losses).items():
        if name not in nodes:
            raise CannotFork(f"there is no node {name} by then: there are {_named(nodes)}")
        if mib >= nodes[name]:
            raise CannotFork(f"{name} has {nodes[name]} MiB: {mib} MiB cannot be taken out of it")
    for setting in variant.policy:
        if setting.service == "memory" and setting.stream and setting.stream not in nodes:
            raise CannotFork(f"there is no node {setting.stream} by then: there are {_named(nodes)}")
        if setting.stream.startswith("guard-") and isinstance(vms.get(setting.stream[6:], Absent()), Absent):
            raise CannotFork(f"there is no VM {setting.stream[6:]} by then: there are {_named(_defined(vms))}")


def _summed(losses: Iterable[tuple[str, int]]) -> Counter[str]:
    summed: Counter[str] = Counter()
    for name, mib in losses:
        summed[name] += mib
    return summed


def _defined(vms: Mapping[str, Any]) -> list[str]:
    return [vm for vm, state in vms.items() if not isinstance(state, Absent)]


def _named(names: Any) -> str:
    ordered = sorted(names)
    more = f" and {len(ordered) - NAMED_MAX} more" if len(ordered) > NAMED_MAX else ""
    return (", ".join(ordered[:NAMED_MAX]) or "none") + more


def set_policy(world: World, policy: tuple[Setting, ...], asked: Asked) -> None:
    """It holds before anything else is done."""
    ledgers = {name: state for name, state in _states(world, "memory").items() if isinstance(state, Ledger)}
    for setting in policy:
        match setting.ask:
            case MemoryPolicy():
                for name in [setting.stream] if setting.stream else sorted(world.agents):
                    ledger = ledgers.get(f"ledger-{name}")
                    before = ledger.policy if ledger is not None else MemoryPolicy()
                    after = replace(before, **{word: getattr(setting.ask, word) for word in setting.named})
                    id = world.ask("memory", f"ledger-{name}", SetMemoryPolicy(node=name, policy=after))
                    asked.settings[id] = f"the memory policy of {name}"
            case command:
                asked.settings[world.ask(setting.service, setting.stream, command)] = setting.stream


def act(world: World, variant: Variant, asked: Asked) -> None:
    """All at once, but for starts, which come one after the other."""
    for kind, name in variant.kills:
        befall(world, Step(do="power" if kind == "node" else "vm_kill", who=name))
    for node, mib in _summed(variant.losses).items():
        world.agents[node].memory.lose(mib)
        if world.agents[node].agent is not None:
            world.agents[node].greet()
        world.net.after(LEAVE_US, partial(_leave, world, node, world.log.head_now().position, asked))
    add(world, variant, asked)


def add(world: World, variant: Variant, asked: Asked) -> None:
    taken, delay_us = set(_states(world, "compute")), 0
    for number, like in variant.adds:
        definition = _states(world, "compute")[f"vm-{like}"].definition
        left, at = number, 0
        while left:
            at += 1
            if f"vm-{like}-{at}" in taken:
                continue
            name, left = f"{like}-{at}", left - 1
            asked.added[name] = like
            world.net.after(delay_us, partial(_start, world, defined(name, definition), asked))
            delay_us += BETWEEN_US


def defined(name: str, like: VmDefined) -> DefineVm:
    """Another of the same kind. What was written on its disks is its own, so those without an image are blank."""
    shape = like.shape
    return DefineVm(
        vm=name, vcpus=shape.vcpus, memory_mib=shape.memory_mib, vcpus_max=shape.vcpus_max, memory_max_mib=shape.memory_max_mib,
        memory_by=shape.memory_by, disks=tuple(map(_disk, like.disks)), nics=like.nics, priority=like.priority,
        allotment=like.allotment, firmware=shape.firmware, system=shape.system,
    )  # fmt: skip


def _disk(disk: DiskWish) -> DiskWish:
    """A seed is one VM's own."""
    return replace(disk, seed=None) if disk.seed is not None else disk


def _start(world: World, define: DefineVm, asked: Asked) -> None:
    asked.starts[world.ask("compute", f"vm-{define.vm}", define)] = define.vm

    def start() -> None:
        asked.starts[world.ask("compute", f"vm-{define.vm}", StartVm(vm=define.vm))] = define.vm

    world.net.after(DEFINED_US, start)


def _leave(world: World, node: str, after: int, asked: Asked) -> None:
    """Whom memory names is moved to wherever it fits."""
    for recorded in world.log.read_all_now(after, 10**9):
        event = world.checker.event(recorded)
        if isinstance(event, CapacityExceeded) and event.node == node:
            for vm in event.would_go:
                if not isinstance(_states(world, "compute").get(f"vm-{vm}"), Migrating):
                    move = MigrateVm(vm=vm, reason=f"{node} has less memory")
                    asked.moves[world.ask("compute", f"vm-{vm}", move)] = vm


def _states(world: World, service: str) -> Mapping[str, Any]:
    host = world.services[service].host
    assert host is not None, f"{service} is not up"
    return host.states()
