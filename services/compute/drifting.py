"""What a running VM's process has otherwise than ordered, as its agent tells: recorded where that is news. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from msgspec.structs import replace

from proto.compute import ReportVm, Seen, VmEvent
from proto.growth import VmAgreed, VmDrifted
from services.compute.states import Running


def report(fact: ReportVm, vm: Running) -> Sequence[VmEvent]:
    if fact.drifts is None or fact.seen is not Seen.RUNNING or fact.drifts == vm.drifts:
        return ()
    if not fact.drifts:
        return [VmAgreed(vm=vm.id, node=vm.node, generation=vm.generation)]
    return [VmDrifted(vm=vm.id, node=vm.node, generation=vm.generation, drifts=fact.drifts)]


def _drifted(vm: Running, event: VmDrifted | VmAgreed) -> Running:
    return replace(vm, drifts=event.drifts if type(event) is VmDrifted else ())


RUNNING: dict[type, Callable[[Any, Any], Running]] = dict.fromkeys((VmDrifted, VmAgreed), _drifted)
"""how it leads on: a part of evolving.py"""
