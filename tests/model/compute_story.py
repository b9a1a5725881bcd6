"""A VM as the log tells of it: the events of its life and histories that many tests begin with."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import msgspec

from libs.common.messages import NodeId, VmId
from libs.common.testing import Spec
from proto.compute import (
    DefineVm,
    DeleteVm,
    GoneCause,
    ImageFacts,
    NoteDevices,
    NoteMemory,
    PauseVm,
    ReportVm,
    ResetVm,
    ResumeVm,
    Seen,
    StartVm,
    StopVm,
    VmCommand,
    VmDefined,
    VmDeleted,
    VmDevicesNoted,
    VmEvent,
    VmLaunchRequested,
    VmMemoryNoted,
    VmPaused,
    VmPauseRequested,
    VmResetRequested,
    VmResumeRequested,
    VmStarted,
    VmStartRequested,
    VmStopped,
    VmStopRequested,
)
from proto.machine import (
    DirectBoot,
    Disk,
    DiskFormat,
    DiskWish,
    Firmware,
    MachineSpec,
    Nic,
    NicKind,
    NicWish,
    Shape,
    birth,
)
from proto.placement import Candidate, Filter, Placement, Rejected
from proto.space import FullDisk, VmRanOutOfSpace
from services.compute.model import VM

A = VmId("a")
N1, N2, N3, N4 = (NodeId(f"n{i}") for i in (1, 2, 3, 4))
BOOT = DirectBoot(kernel="vmlinux", initrd="initrd")
SHAPE = Shape(
    vcpus=1, memory_mib=256, vcpus_max=4, memory_max_mib=1024, machine="pc-q35-7.2", cpu_model="qemu64",
    firmware=Firmware.DIRECT, uuid="00000000-0000-8000-8000-000000000000",
)  # fmt: skip
WISHES = (DiskWish(image="tiny"),)
DISKS = (
    Disk(
        name="disk0", pool="default", file="a-disk0.qcow2", size_mib=64, format=DiskFormat.QCOW2, serial="s", slot=1,
        image="tiny",
    ),
)  # fmt: skip
NICS = (Nic(name="nic0", kind=NicKind.USER, mac="52:54:00:00:00:01", slot=2),)


def choice(*nodes: NodeId, tried: Sequence[NodeId] = ()) -> Placement:
    return Placement(
        policy="p",
        candidates=tuple(Candidate(node=n, score=0.5) for n in nodes),
        rejected=tuple(Rejected(node=n, filter=Filter.TRIED) for n in tried),
    )


def requested(node: NodeId, generation: int, placement: Placement) -> VmStartRequested:
    return VmStartRequested(
        vm=A, node=node, generation=generation, memory_mib=256, vcpus=1, priority=DEFINED.priority, placement=placement,
        disks=WISHES, nics=(NicWish(),),
    )  # fmt: skip


def launched(node: NodeId, generation: int) -> VmLaunchRequested:
    spec = MachineSpec(vm=A, generation=generation, shape=SHAPE, disks=DISKS, nics=NICS, boot=BOOT, boot_image="tiny")
    return VmLaunchRequested(vm=A, node=node, spec=msgspec.structs.replace(spec, born=birth(spec)))


def report(seen: Seen, generation: int = 1, node: NodeId = N1, version: int = 99, **more: object) -> ReportVm:
    body = {"vm": "a", "node": node, "generation": generation, "order_version": version, "seen": seen} | more
    return msgspec.convert(body, ReportVm)


DEFINE = DefineVm(vm="a", disks=WISHES, nics=(NicWish(),), known=ImageFacts(sizes_mib={"tiny": 64}))
DEFINED = VmDefined(
    vm=A, shape=SHAPE, disks=WISHES, nics=(NicWish(),), priority=DEFINE.priority, sizes_mib={"tiny": 64}, boot=BOOT,
    boot_image="tiny",
)  # fmt: skip
REQUESTED = requested(N1, 1, choice(N1, N2))
MEMORY = VmMemoryNoted(vm=A, generation=1)
DEVICES = VmDevicesNoted(vm=A, generation=1, disks=DISKS, nics=NICS)
LAUNCHED = launched(N1, 1)
STARTED = VmStarted(vm=A, node=N1, generation=1, boot_id="b", pcpus=(0,))
STOP_REQUESTED = VmStopRequested(vm=A, node=N1, generation=1, deadline_s=60)
STOPPED = VmStopped(vm=A, node=N1, generation=1, cause=GoneCause.ORDERED)
PAUSE = VmPauseRequested(vm=A, generation=1)
PAUSED = VmPaused(vm=A, generation=1)
RESUME = VmResumeRequested(vm=A, generation=1)
RESET = VmResetRequested(vm=A, generation=1, resets=1)
OUT_OF_SPACE = VmRanOutOfSpace(vm=A, node=N1, generation=1, disks=(FullDisk(disk="disk0", pool="default"),))
RESERVING = (DEFINED, REQUESTED)
LAUNCHING = (*RESERVING, MEMORY, DEVICES, LAUNCHED)
RUNNING = (*LAUNCHING, STARTED)
STOPPING = (*RUNNING, STOP_REQUESTED)
HISTORIES: dict[str, tuple[VmEvent, ...]] = {
    "absent": (),
    "stopped": (DEFINED,),
    "reserving": RESERVING,
    "memory noted": (*RESERVING, MEMORY),
    "devices noted": (*RESERVING, DEVICES),
    "launching": LAUNCHING,
    "running": RUNNING,
    "pausing": (*RUNNING, PAUSE),
    "paused": (*RUNNING, PAUSE, PAUSED),
    "resuming": (*RUNNING, PAUSE, PAUSED, RESUME),
    "resetting": (*RUNNING, RESET),
    "out of space": (*RUNNING, OUT_OF_SPACE),
    "stopping": STOPPING,
    "stopped again": (*STOPPING, STOPPED),
    "deleted": (*STOPPING, STOPPED, VmDeleted(vm=A, node=N1)),
}
START = StartVm(vm="a", choice=choice(N1, N2))
NOTE_MEMORY = NoteMemory(vm="a", node=N1, generation=1, granted=True)
NOTE_DEVICES = NoteDevices(vm="a", node=N1, generation=1, granted=True, disks=DISKS, nics=NICS)
NO_MEMORY = NoteMemory(vm="a", node=N1, generation=1, granted=False, sentence="full")
NO_DEVICES = NoteDevices(vm="a", node=N1, generation=1, granted=False, sentence="no image")
COMMANDS: tuple[VmCommand, ...] = (
    DEFINE,
    START,
    StopVm(vm="a"),
    ResetVm(vm="a"),
    PauseVm(vm="a"),
    ResumeVm(vm="a"),
    DeleteVm(vm="a"),
    NOTE_MEMORY,
    NO_MEMORY,
    NOTE_DEVICES,
    NO_DEVICES,
    *(report(seen, g, n) for seen, g, n in product(Seen, (0, 1, 2), (N1, N2))),
)
vm = Spec(VM)
