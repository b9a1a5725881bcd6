"""What a process has otherwise than its order says: found, told, set right where that is safe; when an agent looks."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from proto.growth import VmAgreed, VmDrifted
from proto.hardware import Drift, Hardware, Misfit, ordered
from proto.machine import Born, Disk, DiskBus, DiskFormat, DiskLimits, MachineSpec, Nic, NicKind, NicModel
from proto.models import DISKS, NICS
from proto.node import Want
from services.compute.model import VM
from services.node.drift import DRIFTS_MAX, LOOK_US, SOON_US, differences
from services.node.drivers.present import DiskPresent, NicPresent, Present
from tests.model.test_agent import SHAPE, Node, machine, order
from tests.model.test_growth import after, running, seen

DISK = Disk(
    name="disk1", pool="default", file="a-disk1.qcow2", size_mib=64, format=DiskFormat.QCOW2, serial="s", slot=2,
    limits=DiskLimits(mibps=2),
)  # fmt: skip
NIC = Nic(name="nic0", kind=NicKind.USER, mac="52:54:00:00:00:01", slot=3)
SPEC = MachineSpec(
    vm="a", generation=1, shape=SHAPE, disks=(DISK,), nics=(NIC,), born=Born(vcpus=1, memory_mib=256, slots=(2, 3))
)
AS_ORDERED = Present(
    1, 256, (DiskPresent(2, "virtio-blk-pci", 64, DISK.file, DISK.limits),), (NicPresent(3, "virtio-net-pci", NIC.mac, True),)
)
FREE = replace(AS_ORDERED.disks[0], limits=DiskLimits())
PULLED = replace(AS_ORDERED.nics[0], link=False)
S = 1_000_000


def found(present: Present, spec: MachineSpec = SPEC, hardware: Hardware | None = None) -> list[tuple[str, str, bool]]:
    return [(d.what, d.name, d.repaired) for d in differences(spec, hardware or ordered(spec), present)]


def test_what_is_as_ordered_differs_in_nothing() -> None:
    assert found(AS_ORDERED) == []
    unread = replace(AS_ORDERED, nics=(replace(AS_ORDERED.nics[0], link=None),), disks=(replace(AS_ORDERED.disks[0], file=""),))
    assert found(unread) == [], "what cannot be read is not said to differ"


@pytest.mark.parametrize(
    ("present", "what", "name", "repaired"),
    [
        (replace(AS_ORDERED, disks=(FREE,)), "disk", "disk1", True),
        (replace(AS_ORDERED, disks=(replace(FREE, limits=None),)), "disk", "disk1", True),
        (replace(AS_ORDERED, nics=(PULLED,)), "nic", "nic0", True),
        (replace(AS_ORDERED, disks=()), "disk", "disk1", True),
        (replace(AS_ORDERED, nics=()), "nic", "nic0", True),
        (replace(AS_ORDERED, disks=(replace(AS_ORDERED.disks[0], size_mib=96),)), "disk", "disk1", False),
        (replace(AS_ORDERED, disks=(replace(AS_ORDERED.disks[0], size_mib=32),)), "disk", "disk1", True),
        (replace(AS_ORDERED, disks=(replace(AS_ORDERED.disks[0], file="other.qcow2"),)), "disk", "disk1", False),
        (replace(AS_ORDERED, disks=(replace(AS_ORDERED.disks[0], model="nvme"),)), "disk", "disk1", False),
        (replace(AS_ORDERED, nics=(replace(AS_ORDERED.nics[0], mac="52:54:00:00:00:99"),)), "nic", "nic0", False),
        (replace(AS_ORDERED, memory_mib=512), "memory", "memory", True),
        (replace(AS_ORDERED, vcpus=2), "vcpus", "vcpus", True),
        (replace(AS_ORDERED, foreign=(("mine", "virtio-rng-pci"),)), "device", "mine", False),
        (replace(AS_ORDERED, disks=(*AS_ORDERED.disks, DiskPresent(5, "nvme", 8))), "device", "disk5", False),
        (replace(AS_ORDERED, nics=(*AS_ORDERED.nics, NicPresent(6, "e1000e"))), "device", "nic6", False),
    ],
)
def test_each_difference_is_found_once(present: Present, what: str, name: str, repaired: bool) -> None:
    assert found(present) == [(what, name, repaired)]
    (drift,) = differences(SPEC, ordered(SPEC), present)
    assert drift.repaired or "resize" in drift.sentence or "restart" in drift.sentence, "what stays says what would help"


def test_another_disc_in_a_drive_is_set_right() -> None:
    spec = replace(SPEC, disks=(replace(DISK, bus=DiskBus.CDROM, file="", image="red"),))
    for medium, repaired in (("red", []), ("", [("disk", "disk1", True)]), ("blue", [("disk", "disk1", True)])):
        assert found(replace(AS_ORDERED, disks=(DiskPresent(2, "scsi-cd", medium=medium),)), spec) == repaired


def test_what_is_known_to_be_missing_or_leaving_is_no_drift() -> None:
    pending = replace(ordered(SPEC), misfits=(Misfit(what="disk", slot=2, sentence="no room"),))
    assert found(replace(AS_ORDERED, disks=()), hardware=pending) == []
    leaving = replace(SPEC, disks=(), leaving=(2,))
    assert found(AS_ORDERED, leaving) == [] and found(replace(AS_ORDERED, disks=()), leaving) == []
    takes_its_time = replace(ordered(SPEC), misfits=(Misfit(what="memory", sentence="the guest has taken 256", pending=True),))
    assert found(replace(AS_ORDERED, memory_mib=512), hardware=takes_its_time) == []
    assert found(replace(AS_ORDERED, memory_mib=512), replace(SPEC, born=None)) == [], "its size is not known"
    kept = replace(ordered(SPEC), plugged_vcpus=3)
    assert found(replace(AS_ORDERED, vcpus=3), hardware=kept) == [], "vCPUs out of use stay plugged"


devices = st.lists(st.sampled_from(range(8)), unique=True, max_size=6)


@given(devices, devices, st.booleans())
def test_a_machine_that_is_as_ordered_never_differs_whatever_it_is(disks: list[int], nics: list[int], link: bool) -> None:
    kinds = list(DiskBus)
    wanted = [replace(DISK, name=f"disk{s}", slot=s, bus=kinds[s % len(kinds)], size_mib=8 + s, image="x") for s in disks]
    cards = [replace(NIC, name=f"nic{s}", slot=s + 8, model=list(NicModel)[s % 2], link=link) for s in nics]
    spec = replace(SPEC, disks=tuple(wanted), nics=tuple(cards))
    present = Present(
        1, 256,
        tuple(DiskPresent(d.slot, DISKS[d.bus].driver, d.size_mib, d.file, d.limits, "x" if d.bus.is_cd else "") for d in wanted),
        tuple(NicPresent(n.slot, NICS[n.model].driver, n.mac, n.link) for n in cards),
    )  # fmt: skip
    assert found(present, spec) == []


def test_so_many_differences_are_told_at_most() -> None:
    foreign = tuple((f"mine{n}", "virtio-rng-pci") for n in range(100))
    assert len(differences(SPEC, ordered(SPEC), replace(AS_ORDERED, foreign=foreign))) == DRIFTS_MAX


# --- the agent ------------------------------------------------------------------------------------------------------------


def started(present: Present = AS_ORDERED) -> Node:
    node = Node("fit").order(order(spec=SPEC))
    node.present = present
    return node.heard()


def fitted(node: Node) -> Node:
    made = replace(machine(), hardware=ordered(SPEC))
    return node.do(node.agent.on_done("a", "fit", "", made, node.now_us))


def drifts(node: Node) -> list[str] | None:
    told = node.facts[-1].drifts
    return None if told is None else [d.name for d in told]


def test_a_vm_is_looked_at_once_in_a_while_and_said_to_agree() -> None:
    node = started()
    assert (drifts(node), node.looks) == (None, 0)
    node.tick(LOOK_US / S)
    assert (drifts(node), node.looks) == ([], 1)
    facts = len(node.facts)
    node.heard().tick(LOOK_US / S - 1)
    assert node.looks == 1
    node.tick(1)
    assert node.looks == 2 and len(node.facts) == facts, "what is no news is not told again"


def test_a_difference_is_told_set_right_and_looked_at_soon() -> None:
    node = started(replace(AS_ORDERED, nics=(PULLED,))).tick(LOOK_US / S)
    assert drifts(node) == ["nic0"] and node.acts == ["start", "fit"]
    node.present = AS_ORDERED
    fitted(node).heard().tick(SOON_US / S)
    assert (drifts(node), node.acts, node.looks) == ([], ["start", "fit"], 2)


def test_a_difference_is_told_at_least_once_however_soon_it_is_set_right() -> None:
    node = started(replace(AS_ORDERED, nics=(PULLED,))).tick(LOOK_US / S)
    node.present = AS_ORDERED
    fitted(node).tick(SOON_US / S).tick(SOON_US / S)
    assert drifts(node) == ["nic0"], "nobody has heard it yet"
    node.heard().tick(SOON_US / S)
    assert drifts(node) == []


def test_what_is_not_safe_to_set_right_stays_and_is_told_once() -> None:
    node = started(replace(AS_ORDERED, foreign=(("mine", "virtio-rng-pci"),))).tick(LOOK_US / S).heard()
    assert drifts(node) == ["mine"] and node.acts == ["start"]
    facts = len(node.facts)
    node.tick(LOOK_US / S).tick(LOOK_US / S)
    assert (node.looks, len(node.facts), node.acts) == (3, facts, ["start"])


def test_what_does_not_last_is_set_right_ever_less_often() -> None:
    node = started(replace(AS_ORDERED, nics=(PULLED,)))
    fits: list[int] = []
    for second in range(1000):
        node.tick(1)
        if node.acts[-1] == "fit" and node.agent.vms["a"].busy == "fit":
            fits.append(second)
            fitted(node).heard()
    gaps = [b - a for a, b in pairwise(fits)]
    assert 4 <= len(fits) <= 8 and gaps == sorted(gaps), fits


def test_one_that_stands_still_is_not_looked_at_and_a_mute_monitor_is_not_asked_at_once_again() -> None:
    node = started().order(order(version=6, want=Want.PAUSED, spec=SPEC)).tick(100)
    assert node.looks == 0
    node = started()
    node.slow.add("look")
    node.now_us += LOOK_US
    node.agent.vms["a"].busy = "look"
    node.do(node.agent.on_done("a", "look", "the monitor is gone", None, node.now_us))
    assert node.tick(LOOK_US / S - 1).looks == 0 and node.tick(1).looks == 1


def test_what_a_look_finds_belongs_to_no_order() -> None:
    node = Node("fit")
    node.do(node.agent.on_order("ref", order(spec=SPEC, correlation="story"), node.now_us))
    node.present = replace(AS_ORDERED, nics=(PULLED,))
    node.now_us += LOOK_US
    effects = node.agent.on_tick(node.now_us)
    assert [getattr(e, "verb", "") for e in effects] == ["look"]
    seen_ = replace(machine(), present=node.present)
    sent = [e.correlation for e in node.agent.on_done("a", "look", "", seen_, node.now_us) if hasattr(e, "correlation")]
    assert sent == [""]


# --- the log --------------------------------------------------------------------------------------------------------------


def test_the_log_has_each_difference_once_and_their_end() -> None:
    vm = running()
    drift = Drift(what="nic", name="nic0", slot=3, sentence="nic0 has its cable out; it is wanted in", repaired=True)
    fact = replace(seen(vm, 2, 512), drifts=(drift,), hardware=vm.hardware)
    (event,) = VM.decide(fact, vm)
    assert event == VmDrifted(vm=vm.id, node=vm.node, generation=1, drifts=(drift,))
    vm = after(vm, event)
    assert VM.decide(fact, vm) == [] and VM.decide(replace(fact, drifts=None), vm) == []
    (event,) = VM.decide(replace(fact, drifts=()), vm)
    assert event == VmAgreed(vm=vm.id, node=vm.node, generation=1)
    assert after(vm, event).drifts == () and VM.decide(replace(fact, drifts=()), after(vm, event)) == []
