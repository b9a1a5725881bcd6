"""VMs of one `together` group as one: they move as a whole or not at all. Pure.

A group whose VMs are all on one node, and can all be moved, becomes one load for the search. Its moves are those of its VMs, in one
batch, however many they are; when they begin is the model's. Of any other group of several VMs it is said why it stays.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from libs.common.messages import VmId
from proto.balance import ClusterLoad, Move, Stay, VmLoad
from proto.machine import Priority

PARTS_MAX = 16
"""VMs of a group that moves as a whole; a larger one would be split between two nodes for too long."""

GROUPS_SAID_MAX = 20
"""groups of which it is said why they stay"""

PREFIX = "group "
"""begins the names of loads that are groups; no VM's name has a space"""

_CLASSES = (Priority.CRITICAL, Priority.IMPORTANT, Priority.NORMAL, Priority.BEST_EFFORT)


def joined(load: ClusterLoad, stay: frozenset[str]) -> tuple[ClusterLoad, dict[str, VmLoad], tuple[Stay, ...]]:
    """The load with such groups as one each, these by name, and why the other groups stay. stay: VMs that are not to move now."""
    groups: dict[str, list[VmLoad]] = {}
    for vm in load.vms:
        if vm.together:
            groups.setdefault(vm.together, []).append(vm)
    units: dict[str, VmLoad] = {}
    stays: list[Stay] = []
    for name, vms in sorted(groups.items()):
        if len(vms) < 2:
            continue
        vms.sort(key=lambda vm: vm.vm)
        if why := _why_not(vms, stay):
            stays.append(Stay(group=name, vms=tuple(vm.vm for vm in vms), reason=why))
        else:
            units[PREFIX + name] = _unit(name, vms)
    inside = {part for unit in units.values() for part in unit.parts}
    rest = tuple(vm for vm in load.vms if vm.vm not in inside)
    return ClusterLoad(nodes=load.nodes, vms=(*rest, *units.values())), units, tuple(stays[:GROUPS_SAID_MAX])


def _why_not(vms: Sequence[VmLoad], stay: frozenset[str]) -> str:
    """Empty: it can move as a whole."""
    nodes = sorted({vm.node for vm in vms})
    if len(nodes) > 1:
        return f"its VMs are on {', '.join(nodes)}: each may only follow the others"
    if len(vms) > PARTS_MAX:
        return f"it has {len(vms)} VMs, and a group of more than {PARTS_MAX} is not moved"
    for vm in vms:
        if vm.fixed:
            return f"{vm.vm} cannot be moved ({vm.fixed})"
    for vm in vms:
        if vm.vm in stay:
            return f"{vm.vm} was moved lately and rests"
    if len({vm.apart for vm in vms if vm.apart}) > 1:
        return "its VMs are to be apart from several groups"
    return ""


def _unit(name: str, vms: Sequence[VmLoad]) -> VmLoad:
    limits = [vm.vcpus_per_pcpu for vm in vms if vm.vcpus_per_pcpu]
    return VmLoad(
        vm=VmId(PREFIX + name),
        node=vms[0].node,
        vcpus=sum(vm.vcpus for vm in vms),
        memory_mib=sum(vm.memory_mib for vm in vms),
        charged_mib=sum(vm.charged_mib for vm in vms),
        demand_pcpus=sum(vm.demand_pcpus for vm in vms),
        priority=min((vm.priority for vm in vms), key=_CLASSES.index),
        apart=next((vm.apart for vm in vms if vm.apart), ""),
        pools=tuple(sorted({pool for vm in vms for pool in vm.pools})),
        networks=tuple(sorted({network for vm in vms for network in vm.networks})),
        vcpus_per_pcpu=min(limits, default=0.0),
        parts=tuple(vm.vm for vm in vms),
        counts_mib=sum(max(vm.memory_mib, vm.charged_mib) for vm in vms),
    )


def parted(moves: Iterable[Move], units: Mapping[str, VmLoad]) -> tuple[Move, ...]:
    """A group's move as those of its VMs."""
    found: list[Move] = []
    for move in moves:
        unit = units.get(move.vm)
        if unit is None:
            found.append(move)
            continue
        said = f"{move.reason} (all {len(unit.parts)} VMs of it move)"
        found += [
            Move(
                vm=VmId(part), origin=move.origin, target=move.target, gain=move.gain / len(unit.parts),
                score_before=move.score_before, score_after=move.score_after, batch=move.batch, reason=said,
                group=unit.vm.removeprefix(PREFIX),
            )
            for part in unit.parts
        ]  # fmt: skip
    return tuple(found)
