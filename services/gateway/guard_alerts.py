"""VMs that are to run and do not, and a reserve that does not reach, as something to look at. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping

from proto.guard import Mode
from services.gateway.ha_alerts import Said
from services.gateway.views.guards import GuardsView, stays
from services.gateway.views.ha import HaView
from services.gateway.views.vms import Vm


def said(
    guards: GuardsView, ha: HaView, vms: dict[str, Vm], sees: Callable[[str], bool], counts: Mapping[str, Counter[str]]
) -> Iterator[Said]:
    """sees: whether objects of a project are told; counts: as proto.guard.reaching."""
    for name, one in sorted(guards.all.items()):
        vm = vms.get(name)
        if vm is None or not sees(vm.project):
            continue
        if one.guard.mode is Mode.RESTART and (why := stays(vm, counts)):
            sentence = f"{name} is to be started elsewhere when its node is lost, and cannot be: {why}"
            remedy = f"take a disk in a pool that others reach instead, or say that it may stay: asvctl vm guard {name} --mode auto"
            yield Said("guard-unkept", f"vm/{name}", vm.changed_us, sentence, remedy)
        if one.owed is not None and one.owed.try_us:
            remedy = one.owed.remedy or f"asvctl why vm/{name}; it is tried again by itself"
            yield Said("vm-owed", f"vm/{name}", one.owed.since_us, f"{name} is to run and does not: {one.owed.sentence}", remedy)
        elif one.given_up and vm.state == "stopped":
            sentence = f"{name} is not started again: {one.ended}"
            yield Said("vm-given-up", f"vm/{name}", vm.changed_us, sentence, f"asvctl vm start {name}")
    for name, vm in sorted(vms.items()):
        node = ha.nodes.get(vm.node)
        if node is not None and node.standing == "lost" and vm.state != "stopped" and sees(vm.project):
            sentence = f"what became of {name} on {vm.node} is not known: its lease proves nothing of it"
            remedy = f"bring {vm.node} back, or say that it is off: asvctl ha confirm-off {vm.node} --reason …"
            yield Said("vm-unknown", f"vm/{name}", node.since_us, sentence, remedy)
    plan = guards.reserve
    if plan is not None and plan.sentence and len(plan.shares) > 1:
        remedy = "add memory or a node, move or stop VMs, or ask for less: asvctl ha set --reserve-nodes …"
        yield Said("reserve-short", "ha/main", guards.reserve_us, f"not every loss of a node is covered: {plan.sentence}", remedy)
