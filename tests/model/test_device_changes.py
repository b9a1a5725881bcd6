"""io changed a VM's devices: compute's order and definition follow."""

from __future__ import annotations

from msgspec.structs import replace

from libs.common.messages import NodeId
from libs.common.testing import Spec
from proto.compute import NoteDevices, Refusal, VmDevicesNoted
from proto.growth import VmHardwareSeen
from proto.hardware import Hardware
from proto.machine import DiskWish
from proto.migration import MigrateVm, VmMigrationFailed
from services.compute.model import VM
from services.compute.states import Launching, Migrating, Running
from services.io.devices import make_disk
from tests.model.compute_story import DISKS, N1, NICS, A
from tests.model.migration_story import HISTORIES

vms = Spec(VM)
N2 = NodeId("n2")
RUNNING = HISTORIES["reserving"][:-1]
MORE = (*DISKS, make_disk("a", DiskWish(size_mib=5), {}, 7, 9))
CHANGE = NoteDevices(vm="a", node=N1, generation=1, granted=True, disks=MORE, nics=NICS, changed=True)
NOTED = VmDevicesNoted(vm=A, generation=1, disks=MORE, nics=NICS, changed=True)


def test_order_and_definition_follow_in_every_state() -> None:
    for name, history in HISTORIES.items():
        before = VM.fold(history)
        if not hasattr(before, "definition"):
            continue
        after = VM.fold(vms.given(*history).when(CHANGE).twice().events, before)
        assert [d.size_mib for d in after.definition.disks] == [d.size_mib for d in MORE], name  # type: ignore[union-attr]
        if isinstance(after, Running | Launching) and after.generation == 1:
            assert after.spec.disks == MORE, name
        if isinstance(after, Migrating):
            assert after.running.spec.disks == MORE, name


def test_a_migration_and_a_change_exclude_each_other() -> None:
    reserving = HISTORIES["reserving"]
    noted, failed = vms.given(*reserving).when(CHANGE).events[:2]
    assert noted == NOTED and isinstance(failed, VmMigrationFailed) and "devices" in failed.sentence
    running = (*RUNNING, NOTED)
    vms.given(*running).when(MigrateVm(vm="a", node=N2)).refused(Refusal.BUSY)
    leaving = (*RUNNING, replace(NOTED, disks=DISKS, leaving=(DISKS[0].slot,)))
    vms.given(*leaving).when(MigrateVm(vm="a", node=N2)).refused(Refusal.BUSY)
    left = Hardware(vcpus=1, plugged_vcpus=1, memory_mib=256, slots=tuple(n.slot for n in NICS))
    assert VM.fold(leaving) != VM.fold((*leaving, VmHardwareSeen(vm=A, node=N1, generation=1, hardware=left)))
