"""UEFI from the wish to the words: who may have it, where its variables lie, where such a VM may run."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from libs.common.decider import Refused
from libs.common.messages import NodeId
from proto.compute import Filter, ImageFacts, Refusal
from proto.io import GrantDevices, Known, VmPhase
from proto.machine import DirectBoot, DiskWish, Firmware
from proto.vms import DefineVm
from proto.words import fault_of
from services.compute.index import NodeIndex
from services.compute.policy import NodeFacts, Wishes, place
from services.compute.reasons import explain
from services.compute.shape import defined
from services.io.devices import make_disks, named_anew
from services.io.model import DEVICES
from services.io.states import Granted, NoDevices
from services.node.host import ovmf

WISH = DefineVm(vm="a", disks=(DiskWish(size_mib=8), DiskWish(size_mib=8)))
BOOT = DirectBoot(kernel="vmlinux", initrd="initrd")
TINY = ImageFacts(sizes_mib={"tiny": 8}, boot=BOOT, boot_image="tiny")


@pytest.mark.parametrize(
    ("asked", "known", "has"),
    [
        (None, ImageFacts(), Firmware.BIOS),
        (None, TINY, Firmware.DIRECT),
        (None, ImageFacts(firmware=Firmware.UEFI), Firmware.UEFI),
        (None, replace(TINY, firmware=Firmware.UEFI), Firmware.DIRECT),
        (Firmware.BIOS, ImageFacts(firmware=Firmware.UEFI), Firmware.BIOS),
        (Firmware.UEFI, TINY, Firmware.UEFI),
    ],
)
def test_what_is_not_asked_for_is_what_suits_the_image(asked: Firmware | None, known: ImageFacts, has: Firmware) -> None:
    made = defined(replace(WISH, firmware=asked, known=known), 0)
    assert made.shape.firmware is has
    assert (made.boot, made.boot_image) == ((BOOT, "tiny") if has is Firmware.DIRECT else (None, ""))


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (replace(WISH, firmware=Firmware.DIRECT), "kernel"),
        (replace(WISH, firmware=Firmware.UEFI, disks=()), "beside the first disk"),
    ],
)
def test_what_cannot_be_is_refused(command: DefineVm, says: str) -> None:
    with pytest.raises(Refused, match=says) as refused:
        defined(command, 0)
    assert refused.value.reason == Refusal.BAD_SHAPE and refused.value.remedy


def test_variables_lie_beside_the_first_disk_and_get_new_names_with_it() -> None:
    first, second = make_disks("a", WISH.disks, {}, uefi=True)
    assert (first.vars, second.vars) == ("a-disk0-vars.fd", "")
    assert named_anew("a", first, 7, "p").vars == "a-disk0.7-vars.fd"
    assert named_anew("a", second, 7, "p").vars == ""
    assert all(disk.vars == "" for disk in make_disks("a", WISH.disks, {}))


def test_a_grant_makes_them_where_the_vm_has_such_firmware() -> None:
    grant = GrantDevices(vm="a", node=NodeId("n1"), generation=1, disks=WISH.disks, uefi=True)
    (event,) = DEVICES.decide(grant, NoDevices())
    granted = DEVICES.evolve(NoDevices(), event)
    assert isinstance(granted, Granted) and [disk.vars for disk in granted.disks] == ["a-disk0-vars.fd", ""]
    assert Known(phase=VmPhase.STOPPED).uefi is False


def test_their_name_stays_in_its_folder() -> None:
    first, _ = make_disks("a", WISH.disks, {}, uefi=True)
    assert fault_of((first,)) == ""
    assert "file of variables" in fault_of((replace(first, vars="../x"),))


NODE = NodeFacts(
    node=NodeId("n1"), online=True, cordoned=False, pcpus=4, vcpus_promised=0, memory_capacity_mib=4096, memory_reserved_mib=0,
    firmware=("direct", "bios"),
)  # fmt: skip


def test_a_node_without_it_is_no_candidate_and_the_refusal_says_what_to_install() -> None:
    wish = Wishes(vcpus=1, memory_mib=64, firmware=("uefi",))
    has = replace(NODE, node=NodeId("n2"), firmware=("direct", "bios", "uefi"), number=1)
    for decided in (place(wish, [NODE, has]), NodeIndex([NODE, has]).place(wish)):
        assert [c.node for c in decided.candidates] == ["n2"]
        assert [(r.node, r.filter) for r in decided.rejected] == [("n1", Filter.FIRMWARE)]
    sentence, remedy = explain(place(wish, [NODE]))
    assert "without UEFI firmware: n1" in sentence and "install OVMF" in remedy and "n1" in remedy


@pytest.mark.parametrize(("code", "template"), ovmf.PLACES)
def test_it_is_found_where_distributions_put_it(tmp_path: Path, code: str, template: str) -> None:
    assert ovmf.find(tmp_path) is None
    (tmp_path / code).parent.mkdir(parents=True)
    (tmp_path / code).write_bytes(b"code")
    assert ovmf.find(tmp_path) is None
    (tmp_path / template).write_bytes(b"variables")
    assert ovmf.find(tmp_path) == ovmf.Ovmf(tmp_path / code, tmp_path / template, 9)
