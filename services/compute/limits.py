"""How far CPUs are over-allocated on one node, beside how far they may be (rules.py says what is set). Pure.

Placement and growth keep to the limit. It may still be exceeded: by VMs that were found running after a database was restored, or
where a host has lost pCPUs. They run, so they are counted; it is said, and nothing more comes there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from msgspec import structs

from proto.machine import Priority
from proto.placement import CpuLimit, PlacementRules
from proto.plan import SetAllotment
from services.compute.fleet import NodeView, Share


def allotted(command: SetAllotment, nodes: Mapping[str, NodeView], at: Mapping[str, str], rules: PlacementRules) -> SetAllotment:
    """With what another class of the VM would do to the limit where it runs. at: where VMs run."""
    node = at.get(command.vm, "")
    view = nodes.get(node)
    share = view.vms.get(command.vm) if view is not None else None
    if view is None or share is None or command.priority is None or command.priority is share.priority:
        return structs.replace(command, limit=None, limit_before=0)
    changed = view.vms | {command.vm: structs.replace(share, priority=command.priority)}
    before, after = limit_on(node, view, rules), limit_on(node, view, rules, changed.values())
    return structs.replace(command, limit=after, limit_before=before.vcpus_max if before else 0)


def limit_on(node: str, view: NodeView, rules: PlacementRules, shares: Iterable[Share] | None = None) -> CpuLimit | None:
    """shares: of the VMs there, where these are not as the view has them. None: the node has not said what it has."""
    if view.reported is None:
        return None
    can, vms = view.reported.capabilities, list(view.vms.values() if shares is None else shares)
    pcpus = can.pcpus / max(1, can.share)
    classes = {share.priority for share in vms}
    ratio = rules.ratio_on(node, classes)
    limit = CpuLimit(
        node=node,
        pcpus=pcpus,
        vcpus=sum(share.vcpus for share in vms),
        vcpus_max=most(pcpus, ratio),
        ratio=ratio,
        strictest=_strictest(rules, classes, ratio),
    )
    return structs.replace(limit, sentence=_exceeded(limit))


def most(pcpus: float, ratio: float) -> int:
    """vCPUs that may be promised; as policy.vcpus_max has it."""
    return max(1, int(pcpus * ratio))


def _strictest(rules: PlacementRules, classes: Collection[Priority], ratio: float) -> str:
    """The class whose limit it is; "": the node's or the cluster's own."""
    return next((p.value for p in sorted(classes) if rules.ratio_of(p) == ratio), "")


def _exceeded(limit: CpuLimit) -> str:
    """In a sentence; "": it holds."""
    if limit.vcpus <= limit.vcpus_max:
        return ""
    whose = f" where a {limit.strictest} VM runs" if limit.strictest else ""
    return (
        f"{limit.node} has {limit.vcpus} vCPUs on {limit.pcpus:g} pCPUs, and {limit.vcpus_max} would be allowed"
        f" ({limit.ratio:g} per pCPU{whose}): what runs there goes on, and nothing more comes there"
    )
