"""What events of a VM's size say, and what its growth cost. Pure."""

from __future__ import annotations

from typing import Any

from proto import growth as g
from proto.hardware import Hardware
from proto.panics import VmPanicked, VmPanicOver


def of_growth(event: Any) -> str:
    match event:
        case g.VmReshaped(shape=shape):
            return f"at rest it was given {shape.vcpus} vCPUs and {shape.memory_mib} MiB"
        case g.VmResizeRequested():
            said = f"{event.vcpus} vCPUs and {event.memory_mib} MiB were asked for"
            left = f"; {event.node} may promise {event.vcpus_left} more vCPUs with these" if _more_cpus(event) else ""
            return f"{said} ({event.was_vcpus} and {event.was_memory_mib}){left}"
        case g.VmResizeOrdered():
            return f"all that its new size takes was promised, and {event.node} told to bring it there{cost(event)}"
        case g.VmResized(sentence=said):
            return f"it was seen to have {event.vcpus} vCPUs and {event.memory_mib} MiB" + (f": {said}" if said else "")
        case g.VmResizeDenied():
            return f"its size stayed as it was: {event.sentence}"
        case g.VmHardwareSeen(hardware=has):
            return _hardware(has)
        case VmPanicked():
            return f"{event.node} saw its guest die: {event.sentence}"
        case VmPanicOver():
            return "its guest was seen to run again"
        case g.VmDrifted(drifts=drifts):
            told = [drift.sentence + (" (its agent sets it right)" if drift.repaired else "") for drift in drifts]
            return f"its process on {event.node} was seen otherwise than ordered: {'; '.join(told)}"
        case g.VmAgreed():
            return f"its process on {event.node} was seen to be as ordered again"
        case _:
            return ""


def cost(event: g.VmResizeOrdered) -> str:
    """What the node's memory is promised to now, where that became more."""
    now = event.promised
    if now is None:
        return ""
    said = f"of its {now.capacity_mib} MiB {now.reserved_mib} are reserved"
    return f": {said}, {now.charged_mib} charged" if now.charged_mib else f": {said}"


def _more_cpus(event: g.VmResizeRequested) -> bool:
    return event.vcpus > event.was_vcpus and event.vcpus_left >= 0


def _hardware(has: Hardware) -> str:
    slots = ", ".join(map(str, has.slots)) or "none"
    dimms = f", {', '.join(map(str, has.dimms_mib))} of them by modules," if has.dimms_mib else ""
    said = f"it was seen with {has.vcpus} vCPUs, {has.memory_mib} MiB{dimms} and devices in slots {slots}"
    return "; ".join([said, *(misfit.sentence for misfit in has.misfits)])
