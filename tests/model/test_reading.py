"""What an agent takes for an order, and rows of the log turned into events by the many."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from libs.common.messages import Event, Recorded, encode, tag_of
from libs.common.registry import Registry
from proto.machine import Disk, DiskFormat, MachineSpec, Nic, NicKind
from proto.memory import MemoryReleased
from proto.node import OrderDisksRemoval, OrderVm
from services.node.reading import read_order
from tests.model.test_agent import order

DISK = Disk(
    name="disk0", pool="default", file="web-1-disk0.qcow2", size_mib=1, format=DiskFormat.QCOW2, serial="", slot=1
)
NIC = Nic(name="nic0", kind=NicKind.USER, mac="52:54:00:00:00:01", slot=2)


def launch(**more: Any) -> bytes:
    good = order()
    assert good.spec is not None
    spec: MachineSpec = msgspec.structs.replace(good.spec, **({"disks": (DISK,), "nics": (NIC,)} | more))
    return encode(msgspec.structs.replace(good, spec=spec))


def test_a_good_order_is_itself() -> None:
    read = read_order(launch(boot_image="tiny"))
    assert isinstance(read, OrderVm) and read.vm == "a"
    removal = OrderDisksRemoval(vm="a", version=1, disks=(DISK,))
    assert read_order(encode(removal)) == removal


@pytest.mark.parametrize(
    "field, word", [("file", "../../etc/passwd"), ("file", ".x"), ("pool", "../up"), ("name", ""), ("image", "../t")]
)
def test_no_name_leaves_its_folder(field: str, word: str) -> None:
    disk = msgspec.structs.replace(DISK, **{field: word})
    for data in (launch(disks=(disk,)), encode(OrderDisksRemoval(vm="a", version=1, disks=(disk,)))):
        said = read_order(data)
        assert isinstance(said, str) and repr(word) in said and "does not match" in said


def test_other_words_are_held_to_their_patterns() -> None:
    for bad in (
        launch(vm="A B"),
        launch(boot_image="../tiny"),
        launch(nics=(msgspec.structs.replace(NIC, mac="52:54:00:00:00:01,x=y"),)),
        b"\xff",
        encode({"type": "order_tea"}),
    ):
        assert isinstance(read_order(bad), str)


class Seen(Event):
    at: int


class Moved(Event):
    VERSION = 2
    to: str


def row(event: Event, v: int = 1) -> Recorded:
    return Recorded(1, "s", 1, tag_of(type(event)), v, 0, encode(event), b"")


STRANGE = row(MemoryReleased(vm="a", node="n1", generation=1, released_mib=1))  # type: ignore[arg-type]


def test_many_rows_are_what_each_is() -> None:
    plain = Registry((Seen,))
    rows = [row(Seen(at=n)) for n in range(300)]
    assert plain.events(rows) == [Seen(at=n) for n in range(300)] == [plain.event(r) for r in rows]
    assert plain.events([]) == []
    assert plain.events([rows[0], STRANGE, rows[1]]) == [Seen(at=0), None, Seen(at=1)]
    assert Registry(()).events([STRANGE]) == [None]


def test_old_rows_among_many_are_upcast() -> None:
    old = Recorded(1, "s", 1, "moved", 1, 0, encode({"type": "moved", "where": "x"}), b"")
    registry = Registry((Seen, Moved), {("moved", 1): lambda body: {"type": "moved", "to": body["where"]}})
    assert registry.events([row(Seen(at=1)), old, row(Moved(to="y"), 2)]) == [Seen(at=1), Moved(to="x"), Moved(to="y")]


def test_a_broken_row_is_not_passed_over() -> None:
    with pytest.raises(msgspec.ValidationError):
        Registry((Seen,)).events([Recorded(1, "s", 1, "seen", 1, 0, encode({"type": "seen", "at": "noon"}), b"")])
