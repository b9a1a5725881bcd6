"""What an agent makes of orders about backups: which are taken, which wait, and what is ended for them."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from libs.common.messages import NodeId, encode
from proto.backups import Definition, ReportBackup, ReportBackupRemoved, SavedDisk
from proto.machine import Disk, DiskFormat
from proto.node import OrderBackup, OrderBackupRemoval, OrderBackupVerify
from services.node.chores import Chore, Chores, GiveUp, Work
from services.node.model import AnswerOrder, SendFact
from services.node.reading import read_order
from tests.contract.driver_rigs import machine_spec

N1 = NodeId("n1")
DISK = Disk(name="root", pool="default", file="a-root.qcow2", size_mib=1, format=DiskFormat.QCOW2, serial="", slot=1)
SAVED = SavedDisk(disk="root", file="a-root.b1-1.qcow2", size_mib=1, bytes=1, sha256="0" * 64)


def backup(version: int, **more: Any) -> OrderBackup:
    order = OrderBackup(
        vm="a", version=version, backup=f"b1-{version}", generation=1, pool="default", disks=(DISK,),
        definition=Definition(shape=machine_spec().shape, disks=(), nics=()),
    )  # fmt: skip
    return replace(order, **more)


def removal(version: int, **more: Any) -> OrderBackupRemoval:
    return replace(OrderBackupRemoval(vm="a", version=version, backup="b1-1", pool="default"), **more)


def verify(version: int, **more: Any) -> OrderBackupVerify:
    return replace(OrderBackupVerify(vm="a", version=version, backup="b1-1", pool="default"), **more)


def heard(chores: Chores, chore: Chore) -> tuple[bool, list[object]]:
    answer, *rest = chores.on_order("ref", chore, 0)
    assert isinstance(answer, AnswerOrder)
    return answer.heard.accepted, list(rest)


def fact(order: OrderBackup) -> ReportBackup:
    return ReportBackup(node=N1, vm="a", backup=order.backup, order_version=order.version)


@pytest.mark.parametrize("first", [backup(1), verify(1)])
def test_for_a_newer_order_what_is_taken_or_read_is_given_up_and_then_that_one_is_done(first: Chore) -> None:
    chores = Chores()
    assert heard(chores, first) == (True, [Work("backup-a", first)])
    assert heard(chores, first) == (True, []), "said again nothing happens"
    assert heard(chores, removal(2)) == (True, [GiveUp("backup-a")])
    assert heard(chores, removal(2)) == (True, []), "it is given up once"
    assert heard(chores, first)[0] is False, "it is of the past by now"
    assert chores.on_done("backup-a", 1, None, 0) == [Work("backup-a", removal(2))]
    done = ReportBackupRemoved(node=N1, vm="a", backup="b1-1", order_version=2)
    assert chores.on_done("backup-a", 2, done, 0) == [SendFact("backup-a", 2, "io", done, "")]


def test_of_one_that_was_whole_before_it_could_be_given_up_nobody_is_told() -> None:
    chores = Chores()
    heard(chores, backup(1))
    heard(chores, removal(2))
    assert chores.on_done("backup-a", 1, fact(backup(1)), 0) == [Work("backup-a", removal(2))]


def test_a_removal_is_never_cut_short() -> None:
    chores = Chores()
    heard(chores, removal(1))
    assert heard(chores, backup(2)) == (True, [])
    assert heard(chores, backup(3)) == (True, []), "the newest waits"
    assert chores.on_done("backup-a", 1, None, 0) == [Work("backup-a", backup(3))]


def test_vms_do_not_wait_for_each_other() -> None:
    chores = Chores()
    heard(chores, backup(1))
    assert heard(chores, backup(1, vm="b")) == (True, [Work("backup-b", backup(1, vm="b"))])


def test_an_order_of_a_lost_timeline_ends_nothing() -> None:
    chores = Chores(incarnation=2)
    heard(chores, backup(1, incarnation=2))
    assert heard(chores, removal(9)) == (False, [])
    assert not chores.entries["backup-a"].after


def test_good_orders_are_themselves() -> None:
    saved = {"b1-1": (SAVED, replace(SAVED, vars="a-root.b1-1.vars"))}
    for order in (
        backup(2, parent="b1-1", parents=("b1-1",)), removal(2, heirs=saved, below="b1-0"), verify(2, backups=saved),
    ):  # fmt: skip
        assert read_order(encode(order)) == order


@pytest.mark.parametrize(
    "order",
    [
        backup(2, parent="../b1-1"), backup(2, parents=("b1-1", "b1-1/..")), backup(2, backup="b1"), backup(2, vm="../a"),
        backup(2, disks=(replace(DISK, file="../x"),)), removal(2, below=".."), removal(2, backup="../.."),
        removal(2, heirs={"../b1-1": (SAVED,)}), removal(2, heirs={"b1-1": (replace(SAVED, file="../x"),)}),
        verify(2, backups={"..": (SAVED,)}), verify(2, backups={"b1-1": (replace(SAVED, vars="../../etc/shadow"),)}),
        verify(2, pool="../up"), verify(2, backups={"b1-1": (replace(SAVED, disk="a/b"),)}),
    ],
)  # fmt: skip
def test_no_name_leaves_its_folder(order: Chore) -> None:
    assert isinstance(read_order(encode(order)), str)
