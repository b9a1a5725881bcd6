"""The agent makes a running VM like its order: when, how often, and what it says of it."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from proto.compute import Seen
from proto.hardware import Hardware, Misfit
from proto.machine import Disk, DiskFormat, MachineSpec
from proto.node import Want
from services.node.drivers import MachineChanged
from services.node.fitting import AGAIN_US
from tests.model.test_agent import SHAPE, Node, machine, order

DISK = Disk(name="d1", pool="default", file="a-d1.qcow2", size_mib=8, format=DiskFormat.QCOW2, serial="s", slot=2)
PENDING = Misfit(what="disk", slot=2, sentence="the guest has not let it go", pending=True)


def wish(vcpus: int = 1, **more: Any) -> MachineSpec:
    return MachineSpec(vm="a", generation=1, shape=replace(SHAPE, vcpus=vcpus), **more)


def fitted(node: Node, *misfits: Misfit, vcpus: int = 1, slots: tuple[int, ...] = ()) -> Node:
    hardware = Hardware(vcpus=vcpus, plugged_vcpus=vcpus, memory_mib=256, slots=slots, misfits=misfits)
    made = replace(machine(), hardware=hardware)
    return node.do(node.agent.on_done("a", "fit", "", made, node.now_us))


def test_a_start_gives_all_of_it_and_is_reported_so() -> None:
    node = Node().order(order(spec=wish(disks=(DISK,)))).tick()
    assert node.acts == ["start"]
    assert node.facts[-1].hardware == Hardware(
        vcpus=1, plugged_vcpus=1, memory_mib=256, slots=(2,), disk_mib=((2, 8),)
    )


def test_an_order_that_names_more_is_fitted_and_reported() -> None:
    node = Node("fit").order(order()).order(order(version=6, spec=wish(vcpus=2)))
    assert node.acts == ["start", "fit"]
    fitted(node, vcpus=2).tick()
    assert node.acts == ["start", "fit"]
    said = node.facts[-1].hardware
    assert said is not None and (said.vcpus, node.facts[-1].order_version) == (2, 6)


def test_an_order_about_something_else_fits_nothing() -> None:
    node = Node().order(order()).order(order(version=6, resets=1)).tick()
    assert node.acts == ["start", "reset"]


def test_a_newer_wish_that_comes_meanwhile_is_fitted_next() -> None:
    node = Node("fit").order(order()).order(order(version=6, spec=wish(vcpus=2)))
    node.order(order(version=7, spec=wish(vcpus=3)))
    assert node.acts == ["start", "fit"]
    fitted(node, vcpus=2)
    assert node.acts == ["start", "fit", "fit"]
    fitted(node, vcpus=3).tick()
    assert node.acts == ["start", "fit", "fit"]


def test_a_guest_that_did_not_do_it_is_asked_again_ever_more_slowly() -> None:
    node = Node("fit").order(order(spec=wish(disks=(DISK,)))).order(order(version=6, spec=wish(leaving=(2,))))
    fitted(node, PENDING, slots=(2,))
    assert node.facts[-1].hardware is not None and node.facts[-1].hardware.misfits == (PENDING,)
    node.tick(AGAIN_US / 1e6 - 1)
    assert node.acts == ["start", "fit"]
    node.tick(2)
    assert node.acts == ["start", "fit", "fit"]
    fitted(node, PENDING, slots=(2,)).tick(AGAIN_US / 1e6 + 1)
    assert node.acts == ["start", "fit", "fit"]
    node.tick(AGAIN_US / 1e6)
    assert node.acts == ["start", "fit", "fit", "fit"]
    fitted(node).tick(1000)
    assert node.acts == ["start", "fit", "fit", "fit"]


def test_a_reset_guest_is_asked_at_once() -> None:
    node = Node("fit").order(order(spec=wish(disks=(DISK,)))).order(order(version=6, spec=wish(leaving=(2,))))
    fitted(node, PENDING, slots=(2,))
    node.order(order(version=7, resets=1, spec=wish(leaving=(2,))))
    assert node.acts == ["start", "fit", "reset", "fit"]


def test_a_guest_that_restarts_by_itself_is_asked_at_once_too() -> None:
    node = Node("fit").order(order(spec=wish(disks=(DISK,)))).order(order(version=6, spec=wish(leaving=(2,))))
    fitted(node, PENDING, slots=(2,))
    restarted = MachineChanged("a", 1, "running", sentence="the guest was reset (guest-reset)", was_reset=True)
    node.do(node.agent.on_change(restarted, node.now_us))
    assert node.acts == ["start", "fit", "fit"]
    fitted(node).tick(1000)
    node.do(node.agent.on_change(restarted, node.now_us))
    assert node.acts == ["start", "fit", "fit"], "nothing is pending"


def test_what_cannot_be_had_is_not_asked_for_again() -> None:
    node = Node("fit").order(order()).order(order(version=6, spec=wish(disks=(DISK,))))
    fitted(node, replace(PENDING, pending=False)).tick(1000)
    assert node.acts == ["start", "fit"]


def test_one_that_stands_still_or_moves_is_left_alone_until_it_runs() -> None:
    node = Node("fit", "send").order(order()).order(order(version=6, want=Want.PAUSED))
    node.order(order(version=7, want=Want.PAUSED, spec=wish(vcpus=2)))
    assert node.acts == ["start", "pause"]
    node.order(order(version=8, spec=wish(vcpus=2)))
    assert node.acts == ["start", "pause", "resume", "fit"]
    fitted(node, vcpus=2)
    node.order(order(version=9, want=Want.MIGRATING, incoming=2, address="there", deadline_s=60, spec=wish(vcpus=3)))
    assert node.acts[-1] == "send"


def test_a_failed_fit_is_tried_again_and_nothing_is_said_of_it() -> None:
    node = Node("fit").order(order()).order(order(version=6, spec=wish(vcpus=2)))
    node.done("fit", "the monitor is gone").tick()
    assert node.acts == ["start", "fit", "fit"]
    assert node.facts[-1].hardware is not None and node.facts[-1].hardware.vcpus == 1


def test_what_is_gone_has_no_hardware() -> None:
    node = Node().order(order()).change("gone")
    assert (node.facts[-1].seen, node.facts[-1].hardware) == (Seen.GONE, None)
