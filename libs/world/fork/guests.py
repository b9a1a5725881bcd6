"""Processes of VMs, and what pools hold, as the log has them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from libs.common.messages import NodeId
from libs.world.fork import backups
from proto.machine import Disk, MachineSpec
from services.compute.states import Arriving, Migrating, Phase, Running, State, Stopping
from services.io.images import Imported
from services.io.states import Made
from services.node.drivers import CannotStart, Locked, simhome
from services.node.drivers.simpool import Holder, SimPool
from services.node.drivers.simvm import SimVm
from services.node.effects import Kept

if TYPE_CHECKING:
    from libs.world.nodes import NodeProcess
    from libs.world.world import World

AWAITED = frozenset({Phase.SENDING, Phase.RECALLING, Phase.ENDING})
"""phases of a move in which a process waits for the guest at its target"""


def stored(pool: SimPool, states: Mapping[str, Any]) -> None:
    """Disks that were made, with what they stand on, backups, images, and the lease record of each VM. One pool holds them all: who
    reaches which is decided by what nodes say of theirs."""
    backups.stored(pool, states)
    for stream, state in states.items():
        if isinstance(state, Made):
            for disk in (*state.disks, *state.kept):
                lay(pool, disk)
        if isinstance(state, Imported):
            pool.images[f"{state.pool}/{stream.removeprefix('image-')}"] = state.info
        if isinstance(state, State) and (node := getattr(state, "node", "")) and state.generation:
            pool.leases[stream.removeprefix("vm-")] = (state.generation, node)


def lay(pool: SimPool, disk: Disk) -> None:
    """Its file, on its layers. One that stands on a backup holds what that does."""
    if not disk.file or disk.bus.is_cd:
        return
    chain = [f"disk {disk.pool}/{disk.file}", *(simhome.key(disk, layer) for layer in disk.layers)]
    stands = next((layer.file for layer in disk.layers if layer.origin is not None), "")
    for key, below in zip(chain, [*chain[1:], ""], strict=True):
        if not key.startswith(simhome.BACKUP):
            pool.disks.setdefault(key, backups.recorded(stands or disk.file))
        if below:
            pool.beneath.setdefault(key, below)


def running(world: World, states: Mapping[str, Any], versions: Mapping[str, int], incarnation: int) -> list[str]:
    """Every process that the log names, on its node, where that has power. Returns what is wrong with those that cannot be so."""
    said: list[str] = []
    for stream, state in sorted(states.items()):
        if not stream.startswith("vm-"):
            continue
        for node, vm in processes(state):
            said += _put(world, stream, node, vm, versions[stream], incarnation)
    return said


def processes(state: Any) -> Iterator[tuple[NodeId, SimVm]]:
    """(node, process). A move that is being sent is taken to have come to nothing yet: its guest runs at the source."""
    match state:
        case Running():
            yield state.node, _process(state, state.spec)
        case Stopping():
            yield state.node, SimVm(_ending(state), 0, starting=False, boots=1)
        case Migrating() if not state.source_gone:
            yield state.node, _process(state.running, state.running.spec)
            if state.phase in AWAITED and not state.target_gone and state.address:
                yield state.to, SimVm(state.spec, 0, starting=False, status="incoming", address=state.address)
        case Arriving():
            yield state.node, SimVm(state.spec, 0, starting=False, status="paused", boots=1)


def _process(state: Running, spec: MachineSpec) -> SimVm:
    status = "paused" if state.paused else "running"
    return SimVm(spec, 0, starting=False, status=status, resets=state.resets, boots=1)


def _ending(state: Stopping) -> MachineSpec:
    """Its order names no machine any more: what it was defined as."""
    defined = state.definition
    return MachineSpec(
        vm=state.id, generation=state.generation, shape=defined.shape, priority=defined.priority, protected=state.protected,
        allotment=defined.allotment,
    )  # fmt: skip


def _put(world: World, stream: str, name: str, vm: SimVm, version: int, incarnation: int) -> list[str]:
    node = world.agents.get(name)
    if node is None or not node.powered:
        return []
    spec, pool = vm.spec, node.host.pool
    vm.pid, vm.running_us = node.host.next_pid(), world.net.now_us - node.host.params.boot_us
    node.disk[spec.vm] = Kept(spec.vm, spec.generation, version, True, incarnation, 0, spec.disks, spec.nics)
    if vm.status == "incoming":
        vm.pool, pool.waiting[vm.address] = pool, vm
    else:
        for disk in spec.disks:
            lay(pool, disk)
        try:
            pool.take(spec, name)
            pool.open(spec, Holder(name, spec.vm, spec.generation))
        except (CannotStart, Locked) as refused:
            return [f"{spec.vm} on {name}: {refused}"]
        pool.known |= {(spec.vm, disk.name): pool.on(disk) for disk in spec.disks if not disk.bus.is_cd}
    node.host.vms[spec.vm] = vm
    return []


def scheduled(node: NodeProcess, plan: Any) -> None:
    """As the plan that it has applied says."""
    for vm, process in node.host.vms.items():
        if (planned := plan.vms.get(vm)) is not None and planned.generation == process.spec.generation:
            node.host.cpu.plans[process.pid] = planned

