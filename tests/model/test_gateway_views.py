"""What is shown of VMs, nodes and images, and whose it is."""

from __future__ import annotations

import pytest

from libs.common.messages import NodeId, VmId
from proto import compute as c
from proto import io, memory
from proto import migration as m
from proto.machine import DiskWish, Priority
from services.gateway.auth import CLUSTER_WIDE, LEAST, Action, Principal, Role
from services.gateway.views.vms import REASONS_MAX
from services.io.devices import make_disks, named_anew
from tests.contract.gateway_rig import ABILITIES, defined, start_requested, started
from tests.model.test_gateway_tasks import N1, N2, VM, Log, failed, stopped


def test_a_vms_states() -> None:
    log, states = Log(), []
    for event in (
        defined("a"),
        start_requested("a"),
        started("a"),
        c.VmPauseRequested(vm=VM, generation=1),
        c.VmPaused(vm=VM, generation=1),
        c.VmResumeRequested(vm=VM, generation=1),
        c.VmResumed(vm=VM, generation=1),
        c.VmStopRequested(vm=VM, node=N1, generation=1, deadline_s=1),
        stopped(),
    ):
        log.add(event)
        states.append(log.model.vms.all["a"].state)
    assert states == [
        "stopped",
        "starting",
        "running",
        "pausing",
        "paused",
        "resuming",
        "running",
        "stopping",
        "stopped",
    ]
    vm = log.model.vms.all["a"]
    assert (vm.node, vm.pcpus, vm.boot_id, vm.generation) == ("", (), "", 1)
    assert [r.text for r in vm.reasons][-1] == "stopped (ordered)"
    log.add(c.VmDeleted(vm=VM))
    assert not log.model.vms.all


def test_a_vm_on_its_way_has_the_disks_of_the_node_that_it_runs_on() -> None:
    here = make_disks("a", (DiskWish(image="tiny"),), {"tiny": 64})
    there = tuple(named_anew("a", disk, 2, "two") for disk in here)
    moving = m.VmMigrationRequested(
        vm=VM, node=N1, generation=1, to=N2, incoming=2, memory_mib=256, vcpus=1, priority=Priority.NORMAL,
        placement=c.Placement(policy="p"), deadline_s=60,
    )  # fmt: skip
    log = Log()
    begun = (c.VmDevicesNoted(vm=VM, generation=1, disks=here, nics=()), started("a"), moving)
    for event in (defined("a"), start_requested("a"), *begun, c.VmDevicesNoted(vm=VM, generation=2, disks=there, nics=())):
        log.add(event)
    vm = log.model.vms.all["a"]
    assert (vm.disks, vm.disks_there, vm.migrating_to) == (here, there, "n2")
    came = m.VmMigrated(vm=VM, node=N2, generation=2, source=N1, source_generation=1)
    log.add(came)
    assert (vm.disks, vm.disks_there) == (there, ())


def test_a_vm_whose_process_ended_on_its_way_says_whom_it_waits_for() -> None:
    log = Log()
    lost = m.VmMigrationFailed(
        vm=VM, node=N1, generation=1, to=N2, incoming=2, sentence="QEMU ended by signal 9", source_gone=True, cause="crashed"
    )
    moving = m.VmMigrationRequested(
        vm=VM, node=N1, generation=1, to=N2, incoming=2, memory_mib=256, vcpus=1, priority=Priority.NORMAL,
        placement=c.Placement(policy="p"), deadline_s=60,
    )  # fmt: skip
    for event in (defined("a"), start_requested("a"), started("a"), moving, lost):
        log.add(event)
    vm = log.model.vms.all["a"]
    assert (vm.state, vm.migrating_to) == ("stopping", "n2") and vm.reason.endswith("has ended what waits for it there")
    log.add(m.VmIncomingGone(vm=VM, node=N2, generation=2, source=N1, source_generation=1))
    log.add(stopped())
    assert (vm.state, vm.migrating_to, vm.node) == ("stopped", "", "")


def test_reasons_are_bounded() -> None:
    log = Log()
    log.add(defined("a"))
    for _ in range(10):
        log.add(start_requested("a"), failed())
    vm = log.model.vms.all["a"]
    assert len(vm.reasons) == REASONS_MAX and vm.reason == "did not start on n1: no memory left"
    assert (vm.state, vm.node) == ("stopped", "")


def test_nodes_and_ledgers() -> None:
    log = Log()
    log.add(c.NodeJoined(node=N1, key="U1"), c.NodeReported(node=N1, capabilities=ABILITIES, boot_id="b", address="x"))
    log.add(memory.CapacitySet(node=N1, capacity_mib=1000))
    kept = {"node": N1, "vm": VM, "generation": 1, "memory_mib": 256}
    log.add(memory.MemoryReserved(**kept, reserved_mib=256, capacity_mib=1000))  # type: ignore[arg-type]
    node = log.model.nodes.all["n1"]
    assert (node.reserved_mib, node.capacity_mib, node.capabilities, node.key) == (256, 1000, ABILITIES, "U1")
    log.add(memory.MemoryReleased(node=N1, vm=VM, generation=1, released_mib=256), c.NodeCordoned(node=N1, reason="disk"))
    assert (node.reserved_mib, node.cordoned, node.cordon_reason) == (0, True, "disk")
    log.add(c.NodeUncordoned(node=N1), c.NodeRemoved(node=N1))
    assert not log.model.nodes.all


def test_images() -> None:
    log = Log()
    log.add(io.ImageImportRequested(image="i", node=N1, pool="default", file="f", format=io.ImageFormat.RAW), project="p")
    log.add(io.ImageRejected(image="i", sentence="truncated"))
    image = log.model.images.all["i"]
    assert (image.state, image.reason, image.project) == ("rejected", "truncated", "p")


def test_a_name_that_another_project_used_before() -> None:
    log = Log()
    log.add(defined("a"), project="p")
    log.add(c.VmDeleted(vm=VM), project="p")
    log.add(defined("a"), project="q")
    scopes = log.model.scopes
    assert [scopes.at("vm-a", position) for position in (0, 1, 2, 3, 9)] == [None, "p", "p", "q", "q"]


@pytest.mark.parametrize("action", list(Action))
@pytest.mark.parametrize("role", list(Role))
def test_who_may_do_what(role: Role, action: Action) -> None:
    """The table, spelled out once more."""
    viewer = {Action.READ}
    operator = viewer | {
        Action.OPERATE, Action.EXEC, Action.CONSOLE, Action.SCREENSHOT, Action.TRANSLATE, Action.EXPORT, Action.IMAGES,
    }  # fmt: skip
    may = {Role.VIEWER: viewer, Role.OPERATOR: operator, Role.ADMIN: set(Action)}[role]
    assert (not Principal("i", "n", role, ("*",)).why_not(action)) == (action in may)
    scoped = Principal("i", "n", role, ("p",)).why_not(action)
    assert (not scoped) == (action in may and action not in CLUSTER_WIDE)


def test_every_action_has_a_least_role() -> None:
    assert set(LEAST) == set(Action)


def test_what_a_principal_sees() -> None:
    one, every = Principal("i", "n", Role.VIEWER, ("p",)), Principal("i", "n", Role.VIEWER, ("*",))
    assert one.sees("p") and not one.sees("q") and one.sees("")
    assert every.sees("q") and every.covers(("*", "q")) and not one.covers(("*",)) and one.covers(("p",))


def test_vms_on_a_node() -> None:
    log = Log()
    for name in ("b", "a"):
        log.add(defined(name), start_requested(name), started(name))
    log.add(defined("c"))
    assert log.model.vms.on(NodeId("n1")) == ("a", "b")
    assert VmId("c") in log.model.vms.all
