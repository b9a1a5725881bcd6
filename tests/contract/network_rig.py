"""Two nodes' networks without any hardware: a network namespace each, with a bridge `lan`, joined by a cable (veth)."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from services.node.host.netns import NetworkRoom

BRIDGE = "lan"
MTU = 1600
FORWARDS = "0x4008"
"""control frames that the bridges let pass: 01:80:c2:00:00:03 and :0e, which they would drop by themselves, beside :00"""
SOL_PACKET, PACKET_AUXDATA, ETH_P_ALL, VLAN_VALID = 263, 8, 3, 1 << 4
FRAME_S_MAX = 20.0
BROADCAST = b"\xff" * 6


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


class Wire:
    """One end of a cable: frames out, and those that come in with their VLAN (0: untagged)."""

    def __init__(self, room: NetworkRoom, interface: str) -> None:
        self.socket = room.call(socket.socket, socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        self.socket.bind((interface, 0))
        self.socket.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
        self.socket.settimeout(FRAME_S_MAX)

    def send(self, frame: bytes, vlan: int = 0) -> None:
        tag = struct.pack("!HH", 0x8100, vlan) if vlan else b""
        self.socket.send(frame[:12] + tag + frame[12:])

    def frames(self) -> Iterator[tuple[int, bytes]]:
        """What comes in, for FRAME_S_MAX (TimeoutError)."""
        end = time.monotonic() + FRAME_S_MAX
        while True:
            if time.monotonic() > end:
                raise TimeoutError("what was waited for did not come")
            frame, extra, _, address = self.socket.recvmsg(65536, 256)
            if address[2] == socket.PACKET_OUTGOING:
                continue
            vlan = 0
            for level, kind, data in extra:
                if (level, kind) == (SOL_PACKET, PACKET_AUXDATA):
                    status, _, _, _, _, tci, _ = struct.unpack("IIIHHHH", data[:20])
                    vlan = tci & 0xFFF if status & VLAN_VALID else 0
            yield vlan, frame

    def close(self) -> None:
        self.socket.close()


class TwoNodes:
    """namespaces: of n1 and n2; `tapped` sees what passes between them, in a third, as a switch would."""

    def __init__(self) -> None:
        mark = f"asvt{os.getpid() % 100_000}"
        self.names = [f"{mark}{end}" for end in ("a", "b", "s")]
        self.namespaces = [Path("/run/netns") / name for name in self.names]
        self.rooms = [NetworkRoom(path) for path in self.namespaces]

    def make(self) -> None:
        for name in self.names:
            _ip("netns", "add", name)
        switch = self.names[2]
        _ip("-n", switch, "link", "add", "switch", "type", "bridge")
        _ip("-n", switch, "link", "set", "switch", "mtu", str(MTU), "up")
        for number, name in enumerate(self.names[:2]):
            _ip("-n", name, "link", "add", BRIDGE, "type", "bridge", "group_fwd_mask", FORWARDS)
            peer = ("peer", "name", f"n{number + 1}", "netns", switch)
            _ip("-n", name, "link", "add", "up0", "mtu", str(MTU), "type", "veth", *peer)
            _ip("-n", switch, "link", "set", f"n{number + 1}", "mtu", str(MTU), "master", "switch", "up")
            _ip("-n", name, "link", "set", "up0", "master", BRIDGE, "up")
            _ip("-n", name, "link", "set", BRIDGE, "mtu", str(MTU), "up")
        for number in range(2):
            self.rooms[number].call(_until_forwarding, "up0")
            self.rooms[2].call(_until_forwarding, f"n{number + 1}")

    def wire(self, node: int) -> Wire:
        """The switch's end of a node's cable."""
        return Wire(self.rooms[2], f"n{node + 1}")

    def end(self) -> None:
        for room in self.rooms:
            room.close()
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def _until_forwarding(port: str) -> None:
    """The kernel tells a bridge of a cable in its own time. Looks again and again, until it is so."""
    state, end = Path(f"/sys/class/net/{port}/brport/state"), time.monotonic() + FRAME_S_MAX
    while state.read_text().strip() != "3":
        assert time.monotonic() < end, f"{port} does not forward"
        os.sched_yield()


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@contextmanager
def two_nodes() -> Iterator[TwoNodes]:
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("root and iproute2 are needed to make network namespaces")
    made = TwoNodes()
    try:
        try:
            made.make()
        except subprocess.CalledProcessError as error:
            pytest.skip(f"this machine makes no bridges in network namespaces: {error.stderr.decode().strip()}")
        yield made
    finally:
        made.end()
