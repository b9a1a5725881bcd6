"""What a VM takes of a node, made of what it was asked to be. Pure."""

from __future__ import annotations

from libs.memory.promise import guaranteed_mib, promise_of
from proto.compute import VmDefined
from proto.machine import Allotment
from proto.memory import Promise
from services.compute.fleet import Share


def promise_to(wanted: VmDefined) -> Promise:
    """What a ledger would promise to it."""
    return promise_of(wanted.shape.memory_mib, wanted.priority, wanted.allotment)


def share_of(wanted: VmDefined) -> Share:
    """What it would take of a node."""
    return share(wanted.shape.vcpus, wanted.allotment, promise_to(wanted))


def share(vcpus: int, wish: Allotment, promise: Promise) -> Share:
    """The same, of what an event says."""
    return Share(vcpus, wish.cpu_reserved_pct, wish.together, wish.apart, promise.priority, guaranteed_mib(promise))
