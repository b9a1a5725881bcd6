"""What a tap lets through, by the kernel itself: frames written as a guest writes them, and read where a switch would stand.

A frame that must not pass is followed by one that may: what comes first is then the second.
"""

from __future__ import annotations

import os
import select
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from proto.machine import Nic, NicKind
from services.node.drivers import CannotStart
from services.node.drivers.qemu.tap import open_tap, why_no_filter
from services.node.host import network
from tests.contract.network_rig import BRIDGE, BROADCAST, FRAME_S_MAX, MTU, TwoNodes, mac, two_nodes

OWN, OTHER, FAR = "52:54:00:00:00:01", "52:54:00:00:00:02", "52:54:00:00:00:03"
NIC = Nic(name="nic0", kind=NicKind.BRIDGE, mac=OWN, slot=0, bridge=BRIDGE, network="blue", vlan=5)
PLAIN, TRUSTED = replace(NIC, vlan=0), replace(NIC, trusted=True)
TEST, ARP, RARP = b"\x88\xb5", b"\x08\x06", b"\x80\x35"
HEADER = bytes(10)
"""before each frame of a tap: nothing of it is left to others"""


@pytest.fixture(scope="module")
def nodes() -> Iterator[TwoNodes]:
    with two_nodes() as made:
        if why := made.rooms[0].call(why_no_filter):
            pytest.skip(f"this kernel filters no taps: {why}")
        yield made


class Guest:
    """As QEMU has the tap of a NIC on the first node."""

    def __init__(self, nodes: TwoNodes, nic: Nic) -> None:
        self.queues = nodes.rooms[0].call(open_tap, nic)
        self.wire = nodes.wire(0)

    def says(self, frame: bytes) -> None:
        os.write(self.queues[0], HEADER + frame.ljust(60, b"\0"))

    def hears(self) -> bytes:
        """The next of our frames; what the kernels say of themselves is left out."""
        while True:
            ready, _, _ = select.select(self.queues, [], [], FRAME_S_MAX)
            assert ready, "nothing came"
            frame = os.read(ready[0], 65536)[len(HEADER) :]
            if frame[14:18] == b"asv:":
                return frame

    def out(self) -> tuple[int, bytes]:
        """As the switch sees the next of our frames: VLAN, what it says."""
        for vlan, frame in self.wire.frames():
            if b"asv:" in frame:
                return vlan, frame[frame.index(b"asv:") :].rstrip(b"\0")
        raise AssertionError("nothing came")

    def close(self) -> None:
        for queue in self.queues:
            os.close(queue)
        self.wire.close()


@pytest.fixture
def guest(nodes: TwoNodes, request: pytest.FixtureRequest) -> Iterator[Guest]:
    made = Guest(nodes, getattr(request, "param", NIC))
    yield made
    made.close()


def frame(text: bytes, source: str = OWN, kind: bytes = TEST, to: bytes = BROADCAST) -> bytes:
    return to + mac(source) + kind + b"asv:" + text


def arp(text: bytes, sender: str, source: str = OWN, kind: bytes = ARP) -> bytes:
    head = b"\x00\x01\x08\x00\x06\x04\x00\x01"
    return BROADCAST + mac(source) + kind + head + mac(sender) + bytes(14) + b"asv:" + text


def only_last_passes(guest: Guest, *frames: bytes, vlan: int = 5) -> None:
    for one in frames:
        guest.says(one)
    guest.says(frame(b"last"))
    assert guest.out() == (vlan, b"asv:last")


def test_a_guests_frames_leave_with_its_vlan(guest: Guest) -> None:
    guest.says(frame(b"hello"))
    assert guest.out() == (5, b"asv:hello")
    guest.says(arp(b"who", OWN))
    assert guest.out() == (5, b"asv:who")


@pytest.mark.parametrize("guest", [PLAIN], indirect=True)
def test_without_a_vlan_they_leave_untagged(guest: Guest) -> None:
    guest.says(frame(b"hello"))
    assert guest.out() == (0, b"asv:hello")
    only_last_passes(guest, frame(b"spoofed", OTHER), vlan=0)


def test_another_mac_address_does_not_get_out(guest: Guest) -> None:
    near = (OTHER, "52:54:00:00:01:01", "53:54:00:00:00:01")
    only_last_passes(guest, *(frame(b"spoofed", source) for source in near))


@pytest.mark.parametrize("kind", [ARP, RARP])
def test_arp_that_names_another_does_not_get_out(guest: Guest, kind: bytes) -> None:
    short = BROADCAST + mac(OWN) + kind + b"asv:"
    os.write(guest.queues[0], HEADER + short)
    only_last_passes(guest, arp(b"spoofed", OTHER, kind=kind), arp(b"spoofed", OTHER, OTHER, kind))


@pytest.mark.parametrize("guest", [NIC, TRUSTED, PLAIN], indirect=True, ids=["vlan", "trusted", "untagged"])
def test_tags_and_control_frames_of_bridges_do_not_get_out(guest: Guest) -> None:
    tagged = [frame(b"\0\6\x88\xb5asv:tagged", kind=kind) for kind in (b"\x81\0", b"\x88\xa8", b"\x91\0")]
    control = [frame(b"bpdu", to=b"\x01\x80\xc2\0\0" + bytes([last])) for last in (0, 3, 14)]
    only_last_passes(guest, *tagged, *control, vlan=_vlan(guest))


def _vlan(guest: Guest) -> int:
    guest.says(frame(b"which"))
    return guest.out()[0]


@pytest.mark.parametrize("guest", [TRUSTED], indirect=True)
def test_a_trusted_guest_sends_for_others_and_stays_in_its_vlan(guest: Guest) -> None:
    guest.says(frame(b"nested", OTHER))
    assert guest.out() == (5, b"asv:nested")
    guest.says(arp(b"proxied", FAR, OTHER))
    assert guest.out() == (5, b"asv:proxied")


def test_a_guest_hears_its_vlan_without_the_tag_and_no_other(guest: Guest) -> None:
    for vlan, text in ((6, b"six"), (0, b"none"), (5, b"five")):
        guest.wire.send(frame(text, FAR).ljust(60, b"\0"), vlan)
    heard = guest.hears()
    assert heard[12:14] == TEST and heard[14:].rstrip(b"\0") == b"asv:five"


@pytest.mark.parametrize("guest", [PLAIN], indirect=True)
def test_in_an_untagged_network_no_tagged_frame_is_heard(guest: Guest) -> None:
    for vlan, text in ((6, b"six"), (0, b"none")):
        guest.wire.send(frame(text, FAR).ljust(60, b"\0"), vlan)
    assert guest.hears()[14:].rstrip(b"\0") == b"asv:none"


@pytest.mark.parametrize("guest", [replace(NIC, queues=4, mtu=1400)], indirect=True)
def test_several_queues_and_the_bridges_mtu(nodes: TwoNodes, guest: Guest) -> None:
    assert len(guest.queues) == 4
    guest.says(frame(b"hello"))
    assert guest.out() == (5, b"asv:hello")
    (lan,) = nodes.rooms[0].call(network.bridges)
    assert (lan.mtu, [up.name for up in lan.uplinks]) == (MTU, ["up0"]), "a tap makes no bridge smaller, and is no way out"
    address = Path(f"/sys/class/net/{BRIDGE}/address")
    assert nodes.rooms[0].call(address.read_text) == nodes.rooms[0].call(Path("/sys/class/net/up0/address").read_text)
    guest.says(frame(b"x" * (MTU - 4)))
    assert len(guest.out()[1]) == MTU


def test_what_cannot_be_opened_is_said(nodes: TwoNodes) -> None:
    for nic, filters, says in (
        (replace(NIC, mtu=9000), True, "carries 1600 bytes"),
        (replace(NIC, bridge="none"), True, "bridge none"),
        (NIC, False, "cannot keep"),
        (PLAIN, False, "cannot keep"),
    ):
        with pytest.raises(CannotStart, match=says):
            nodes.rooms[0].call(open_tap, nic, filters)
    for queue in nodes.rooms[0].call(open_tap, replace(PLAIN, trusted=True), False):
        os.close(queue)


def test_two_guests_of_one_node_hear_each_other_in_one_vlan_only(nodes: TwoNodes, guest: Guest) -> None:
    same, other = Guest(nodes, replace(NIC, mac=OTHER)), Guest(nodes, replace(NIC, mac=FAR, vlan=6))
    try:
        guest.says(frame(b"five"))
        other.says(frame(b"six", FAR))
        other.wire.send(frame(b"end", "52:54:00:00:00:09").ljust(60, b"\0"), 6)
        assert same.hears()[14:].rstrip(b"\0") == b"asv:five"
        assert other.hears()[14:].rstrip(b"\0") == b"asv:end"
    finally:
        same.close()
        other.close()

