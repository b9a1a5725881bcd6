"""What an agent says of a VM. Pure."""

from __future__ import annotations

import msgspec

from libs.common.messages import NodeId
from proto.compute import ReportVm, Seen
from services.node import moving
from services.node.drivers import NO_SPACE, PANICKED
from services.node.vm import Vm

SEEN = {"paused": Seen.PAUSED, NO_SPACE: Seen.PAUSED, "incoming": Seen.INCOMING, "sent": Seen.PAUSED}
"""how a machine's status is reported, where it is not as running"""


def report_of(node: NodeId, vm: Vm, met: int = 0) -> ReportVm:
    """The fact about a VM as it is now; met: the incarnation of the log that the node is known to obey."""
    machine = vm.machine
    seen = Seen.GONE
    if machine is not None:
        seen = SEEN.get(machine.status, Seen.RUNNING)
    elif vm.failed:
        seen = Seen.FAILED
    lost = machine is not None and met > vm.kept.incarnation
    fact = ReportVm(
        node=node,
        heard=met,
        vm=vm.kept.vm,
        generation=machine.generation if machine is not None else vm.kept.generation,
        order_version=vm.kept.version,
        seen=seen,
        cause=vm.cause,
        sentence=vm.failed or vm.sentence,
        resets=vm.resets,
        pid=machine.pid if machine is not None else 0,
        hardware=vm.hardware if seen is Seen.RUNNING else None,
        drifts=vm.drifts if seen is Seen.RUNNING else None,
        disks=vm.kept.disks if lost else (),
        nics=vm.kept.nics if lost else (),
        full=vm.full if machine is not None and machine.status == NO_SPACE else (),
        panic=(vm.panic or "the guest panicked") if machine is not None and machine.status == PANICKED else "",
        screen=vm.screen if machine is not None and machine.status == PANICKED else None,
    )
    fact = msgspec.structs.replace(fact, guarded=machine is not None and vm.fitted is not None and vm.fitted.protected)
    return moving.told(fact, vm)
