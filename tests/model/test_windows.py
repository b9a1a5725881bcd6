"""Guests that run Windows: the words of their board, and what a blue screen says."""

from __future__ import annotations

import shutil
import subprocess

import msgspec
import pytest

from libs.common.messages import VmId
from proto.machine import System
from proto.vms import DefineVm
from services.compute.shape import defined
from services.node.drivers.qemu.argv import HYPER_V, build
from services.node.drivers.qemu.panics import sentence
from tests.model.test_argv import BIOS, PLACE

KVM = msgspec.structs.replace(PLACE, accelerator="kvm")
WINDOWS = msgspec.structs.replace(BIOS, shape=msgspec.structs.replace(BIOS.shape, system=System.WINDOWS))


def option(words: list[str], name: str) -> str:
    return words[words.index(name) + 1]


def test_the_system_is_part_of_what_is_pinned() -> None:
    made = defined(DefineVm(vm=VmId("a"), system=System.WINDOWS), 0)
    assert made.shape.system is System.WINDOWS
    assert defined(DefineVm(vm=VmId("a")), 0).shape.system is System.LINUX


def test_only_windows_on_kvm_is_told_of_a_hypervisor_and_all_windows_has_local_time() -> None:
    on_kvm, emulated = build("q", WINDOWS, KVM), build("q", WINDOWS, PLACE)
    assert option(on_kvm, "-cpu") == ",".join(["Nehalem", *HYPER_V]) and "hv-crash=on" in HYPER_V
    assert option(emulated, "-cpu") == "Nehalem" == option(build("q", BIOS, KVM), "-cpu")
    assert option(on_kvm, "-rtc") == option(emulated, "-rtc") == "base=localtime,driftfix=slew"
    assert option(build("q", BIOS, KVM), "-rtc") == "base=utc,driftfix=slew"


@pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="qemu-system-x86_64 is not installed")
def test_qemu_knows_each_enlightenment() -> None:
    words = ["qemu-system-x86_64", "-device", "qemu64-x86_64-cpu,help"]
    known = subprocess.run(words, capture_output=True, check=True, timeout=30, text=True).stdout
    assert all(f"{flag.partition('=')[0]}=" in known for flag in HYPER_V)
    assert "hv-nonsense=" not in known


def panic(*args: object, type: str = "hyper-v") -> dict[str, object]:
    """As QEMU's schema has it: GUEST_PANICKED with GuestPanicInformationHyperV."""
    return {"action": "pause", "info": {"type": type, **{f"arg{n}": arg for n, arg in enumerate(args, 1)}}}


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"action": "pause"}, "the guest panicked"),
        ({"action": "pause", "info": {"type": "s390", "core": 0, "reason": "x"}}, "the guest panicked"),
        (panic(0x7B, 1, 2, 3, 4), "0x0000007b INACCESSIBLE_BOOT_DEVICE (0x1, 0x2, 0x3, 0x4); it has no driver for the disk"),
        (panic(0xD1, 0xFFFFF80012345678, 2, 0, 0xFFFF800000000000), "0x000000d1 DRIVER_IRQL_NOT_LESS_OR_EQUAL (0xfffff80012345678"),
        (panic(0xC0DE0001, 0, 0, 0, 0), "Windows stopped with 0xc0de0001 (0x0, 0x0, 0x0, 0x0)"),
        (panic(-1, 0, 0, 0, 0), "0xffffffffffffffff"),
        (panic("evil\x1b[2J", None, [], {}, 1.5), "Windows stopped with 0x00000000 (0x0, 0x0, 0x0, 0x0)"),
        ({"info": "x"}, "the guest panicked"),
        (panic(1), "0x00000001 (0x0, 0x0, 0x0, 0x0)"),
    ],
)
def test_a_blue_screen_says_its_stop_code(data: dict[str, object], says: str) -> None:
    assert says in sentence(data)
