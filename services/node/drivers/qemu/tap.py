"""A tap device in a bridge, for one NIC of a VM. It is not persistent: it is gone with the last process that has it open, so
that nothing has to be cleaned up after a crash of anyone."""

from __future__ import annotations

import fcntl
import os
import socket
import struct

from services.node.drivers import CannotStart

# linux/if_tun.h, linux/sockios.h, linux/if.h
TUNSETIFF = 0x400454CA
SIOCGIFFLAGS = 0x8913
SIOCSIFFLAGS = 0x8914
SIOCGIFINDEX = 0x8933
SIOCBRADDIF = 0x89A2
IFF_TAP = 0x0002
IFF_NO_PI = 0x1000
IFF_VNET_HDR = 0x4000
IFF_UP = 0x1
NAME_BYTES_MAX = 15


def open_tap(bridge: str) -> int:
    """A descriptor of a new tap (the kernel names it asvN) that is up and in the bridge. Raises CannotStart."""
    if not 0 < len(bridge.encode()) <= NAME_BYTES_MAX:
        raise CannotStart(f"{bridge!r} is no name of a bridge: 1 to {NAME_BYTES_MAX} bytes")
    try:
        tap = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise CannotStart(f"no NIC can be put into bridge {bridge}: /dev/net/tun: {error.strerror}") from error
    try:
        asked = struct.pack("16sH22x", b"asv%d", IFF_TAP | IFF_NO_PI | IFF_VNET_HDR)
        name = fcntl.ioctl(tap, TUNSETIFF, asked)[:16].rstrip(b"\0")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            _join(control, name, bridge.encode())
    except OSError as error:
        os.close(tap)
        raise CannotStart(
            f"no NIC can be put into bridge {bridge}: {error.strerror}; root's rights are needed"
        ) from error
    return tap


def _join(control: socket.socket, tap: bytes, bridge: bytes) -> None:
    index = struct.unpack("16xi20x", fcntl.ioctl(control, SIOCGIFINDEX, struct.pack("16s24x", tap)))[0]
    fcntl.ioctl(control, SIOCBRADDIF, struct.pack("16si20x", bridge, index))
    flags = struct.unpack("16xH22x", fcntl.ioctl(control, SIOCGIFFLAGS, struct.pack("16s24x", tap)))[0]
    fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sH22x", tap, flags | IFF_UP))
