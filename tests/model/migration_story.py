"""A VM that moves, as the log tells of it."""

from __future__ import annotations

from typing import Any

import msgspec

from libs.common.testing import Spec
from proto.compute import (
    GoneCause,
    ReportVm,
    Seen,
    VmDevicesNoted,
    VmEvent,
    VmMemoryNoted,
    VmStopped,
)
from proto.migration import (
    MigrateVm,
    VmIncomingGone,
    VmIncomingRequested,
    VmMigrated,
    VmMigrationEnded,
    VmMigrationFailed,
    VmMigrationRequested,
    VmRecallRequested,
    VmSendRequested,
)
from services.compute.model import VM
from tests.model.compute_story import (
    DEFINED,
    DISKS,
    LAUNCHED,
    N1,
    N2,
    N3,
    NICS,
    RUNNING,
    A,
    choice,
    report,
)

vm = Spec(VM)
AT = "unix:/there/own/incoming"
MIGRATE = MigrateVm(vm="a", choice=choice(N2, N3))
ASKED = VmMigrationRequested(
    vm=A, node=N1, generation=1, to=N2, incoming=2, memory_mib=256, vcpus=1, priority=DEFINED.priority,
    placement=choice(N2, N3), deadline_s=600, disks=DEFINED.disks, nics=DEFINED.nics,
)  # fmt: skip
SPEC = msgspec.structs.replace(LAUNCHED.spec, generation=2)
NOTED = VmMemoryNoted(vm=A, generation=2)
GRANTED = VmDevicesNoted(vm=A, generation=2, disks=DISKS, nics=NICS)
WAITING = VmIncomingRequested(vm=A, to=N2, spec=SPEC)
SEND = VmSendRequested(vm=A, node=N1, generation=1, to=N2, incoming=2, address=AT)
RECALL = VmRecallRequested(vm=A, node=N1, generation=1, incoming=2, sentence="it was cancelled")
LOST_TARGET = VmRecallRequested(vm=A, node=N1, generation=1, incoming=2, sentence="killed", target_gone=True)
FAILED = VmMigrationFailed(vm=A, node=N1, generation=1, to=N2, incoming=2, sentence="it was cancelled")
OVER = VmIncomingGone(vm=A, node=N2, generation=2, source=N1, source_generation=1)
MOVED = VmMigrated(vm=A, node=N2, generation=2, source=N1, source_generation=1, sent_mib=90, total_ms=700, paused_us=1_000_000)
ENDED = VmMigrationEnded(vm=A, node=N2, generation=2, boot_id="b", pcpus=(1,), downtime_ms=65, total_ms=700, sent_mib=90)
RESERVING = (*RUNNING, ASKED)
PREPARING = (*RESERVING, NOTED, GRANTED, WAITING)
SENDING = (*PREPARING, SEND)
RECALLING = (*SENDING, RECALL)
ALONE = (*SENDING, LOST_TARGET)
ENDING = (*RECALLING, FAILED)
ARRIVING = (*SENDING, MOVED)
THERE = (*ARRIVING, ENDED)
STAYED = (*ENDING, OVER)
HISTORIES: dict[str, tuple[VmEvent, ...]] = {
    "reserving": RESERVING,
    "memory noted": (*RESERVING, NOTED),
    "preparing": PREPARING,
    "sending": SENDING,
    "recalling": RECALLING,
    "target gone": ALONE,
    "ending": ENDING,
    "ending without a source": (*ENDING, msgspec.structs.replace(FAILED, source_gone=True, cause="crashed")),
    "arriving": ARRIVING,
    "there": THERE,
    "stayed": STAYED,
    "stopped after it": (*THERE, VmStopped(vm=A, node=N2, generation=2, cause=GoneCause.GUEST)),
    "stopped in spite of it": (*STAYED, VmStopped(vm=A, node=N1, generation=1, cause=GoneCause.GUEST)),
}
LEFT: dict[str, Any] = {"cause": GoneCause.MIGRATED, "moved_to": 2, "sent_mib": 90, "total_ms": 700, "paused_us": 1_000_000}


def target(seen: Seen, **more: Any) -> ReportVm:
    return report(seen, 2, N2, **more)
