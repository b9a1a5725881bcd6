"""What a VM may send, and hear, through a tap: two programs of the kernel's traffic control, fixed to it. They are gone with it.

from the guest   dropped: what carries a VLAN tag already; bridge control frames (01:80:c2:00:00:0x); unless trusted: what comes
                 from another MAC address than the NIC's, ARP and RARP that say so inside too. The rest gets its network's tag
to the guest     only what carries its network's tag, and without it; in an untagged network, only what carries none

The kernel takes a tag off a frame before it looks at it, so tags are looked for beside the frame; a second one is inside it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from proto.machine import Nic
from services.node.host import bpf
from services.node.host.bpf import R0, R1, R2, R3, R6, Assembler

OK, DROP = 0, 2
ETHERNET_BYTES, ARP_BYTES = 14, 42
TAGS = (0x8100, 0x88A8, 0x9100)
ARP, RARP = 0x0806, 0x8035
TAG_PROTOCOL = int.from_bytes((0x8100).to_bytes(2, "big"), sys.byteorder)
"""as it lies in memory"""
INGRESS, EGRESS = "ffff:fff2", "ffff:fff3"


def from_guest(mac: str, vlan: int, trusted: bool) -> bytes:
    """The program for what a guest sends."""
    a = Assembler()
    a.move(R6, R1)
    a.field(R0, bpf.LEN)
    a.jump_below(R0, ETHERNET_BYTES, "drop")
    a.field(R0, bpf.VLAN_PRESENT)
    a.jump_unless(R0, 0, "drop")
    a.half(12)
    for tag in TAGS:
        a.jump_if(R0, tag, "drop")
    a.word(0)
    a.jump_unless(R0, 0x0180C200, "no group")
    a.half(4)
    a.mask(R0, 0xFFF0)
    a.jump_if(R0, 0, "drop")
    a.label("no group")
    if not trusted:
        _own_only(a, bytes.fromhex(mac.replace(":", "")))
    if vlan:
        a.move(R1, R6)
        a.put(R2, TAG_PROTOCOL)
        a.put(R3, vlan)
        a.call(bpf.VLAN_PUSH)
        a.jump_unless(R0, 0, "drop")
    return _ended(a)


def _own_only(a: Assembler, mac: bytes) -> None:
    high, low = int.from_bytes(mac[:4]), int.from_bytes(mac[4:])

    def is_own(offset: int) -> None:
        a.word(offset)
        a.jump_unless(R0, high, "drop")
        a.half(offset + 4)
        a.jump_unless(R0, low, "drop")

    is_own(6)
    a.half(12)
    a.jump_if(R0, ARP, "arp")
    a.jump_unless(R0, RARP, "own")
    a.label("arp")
    a.field(R0, bpf.LEN)
    a.jump_below(R0, ARP_BYTES, "drop")
    is_own(22)
    a.label("own")


def to_guest(vlan: int) -> bytes:
    """The program for what a guest hears."""
    a = Assembler()
    a.move(R6, R1)
    a.field(R0, bpf.LEN)
    a.jump_below(R0, ETHERNET_BYTES, "drop")
    a.half(12)
    for tag in TAGS:
        a.jump_if(R0, tag, "drop")
    a.field(R0, bpf.VLAN_PRESENT)
    a.jump_unless(R0, 0, "tagged")
    a.put(R0, vlan)
    a.jump_unless(R0, 0, "drop")
    a.end(OK)
    a.label("tagged")
    a.field(R0, bpf.VLAN_PROTO)
    a.jump_unless(R0, TAG_PROTOCOL, "drop")
    a.field(R0, bpf.VLAN_TCI)
    a.mask(R0, 0xFFF)
    a.jump_unless(R0, vlan, "drop")
    a.move(R1, R6)
    a.call(bpf.VLAN_POP)
    a.jump_unless(R0, 0, "drop")
    return _ended(a)


def _ended(a: Assembler) -> bytes:
    a.end(OK)
    a.label("drop")
    a.end(DROP)
    return a.code()


def fix(index: int, nic: Nic) -> None:
    """Both programs to the interface of that number, in this thread's network namespace. Raises OSError."""
    from pyroute2 import IPRoute  # takes 0.3 s: only where there is a tap
    from pyroute2.netlink.exceptions import NetlinkError

    with IPRoute() as kernel:
        try:
            kernel.tc("add", "clsact", index)
            _hold(kernel.tc, index, INGRESS, from_guest(nic.mac, nic.vlan, nic.trusted))
            _hold(kernel.tc, index, EGRESS, to_guest(nic.vlan))
        except NetlinkError as error:
            raise OSError(error.code, f"traffic control: {os.strerror(error.code)}") from error


def _hold(tc: Callable[..., object], index: int, parent: str, code: bytes) -> None:
    program = bpf.load(code)
    try:
        tc("add-filter", "bpf", index, ":1", fd=program, name="asv", parent=parent, classid=1, direct_action=True)
    finally:
        os.close(program)  # the filter holds it
