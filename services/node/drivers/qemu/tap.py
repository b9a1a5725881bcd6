"""A tap device in a bridge, for one NIC of a VM. It is not persistent: it is gone with the last process that has it open, and its
filter with it, so that nothing has to be cleaned up after a crash of anyone.

Its MTU is the bridge's, and its own MAC address a high one: a bridge takes the least of its ports' for itself, and is to stay as it
is. The MTU that the guest is told is the network's.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct

from proto.machine import Nic, NicKind
from services.node.drivers import CannotStart
from services.node.drivers.qemu import tap_filter

# linux/if_tun.h, linux/sockios.h, linux/if.h
TUNSETIFF = 0x400454CA
SIOCGIFFLAGS = 0x8913
SIOCSIFFLAGS = 0x8914
SIOCGIFMTU = 0x8921
SIOCSIFMTU = 0x8922
SIOCSIFHWADDR = 0x8924
SIOCGIFINDEX = 0x8933
SIOCBRADDIF = 0x89A2
IFF_TAP = 0x0002
IFF_MULTI_QUEUE = 0x0100
IFF_NO_PI = 0x1000
IFF_VNET_HDR = 0x4000
IFF_UP = 0x1
ARPHRD_ETHER = 1
NAME_BYTES_MAX = 15


def open_tap(nic: Nic, filters: bool = True) -> list[int]:
    """Descriptors of a new tap (the kernel names it asvN), one for each queue. It is in the bridge and up once its filter holds it.
    filters: this kernel can; without, only a trusted NIC outside VLANs gets one. Raises CannotStart."""
    bridge = nic.bridge
    if not 0 < len(bridge.encode()) <= NAME_BYTES_MAX:
        raise CannotStart(f"{bridge!r} is no name of a bridge: 1 to {NAME_BYTES_MAX} bytes")
    if not filters and (nic.vlan or not nic.trusted):
        raise CannotStart(f"this kernel cannot keep NIC {nic.name} to the VLAN and the addresses of network {nic.network}")
    queues: list[int] = []
    try:
        name = _make(nic.queues, queues)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            _fit(control, name, nic)
            if filters:
                tap_filter.fix(_index(control, name), nic)
            _join(control, name, bridge.encode())
    except OSError as error:
        _close(queues)
        raise CannotStart(f"no NIC can be put into bridge {bridge}: {error.strerror}; root's rights are needed") from error
    except BaseException:
        _close(queues)
        raise
    return queues


def why_no_filter() -> str:
    """Tried on a tap that is in no bridge; empty: taps can be kept to their VLAN and addresses."""
    queues: list[int] = []
    nic = Nic(name="probe", kind=NicKind.BRIDGE, mac="52:54:00:00:00:01", slot=0, vlan=1)
    try:
        name = _make(1, queues)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            tap_filter.fix(_index(control, name), nic)
    except OSError as error:
        return error.strerror or str(error)
    except ImportError as error:
        return str(error)
    finally:
        _close(queues)
    return ""


def _make(count: int, queues: list[int]) -> bytes:
    """Its name; each queue is among `queues` as soon as it is open. Raises OSError."""
    flags, name = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | (IFF_MULTI_QUEUE if count > 1 else 0), b"asv%d"
    for _ in range(count):
        queues.append(os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC))
        name = fcntl.ioctl(queues[-1], TUNSETIFF, struct.pack("16sH22x", name, flags))[:16].rstrip(b"\0")
    return name


def _fit(control: socket.socket, tap: bytes, nic: Nic) -> None:
    """As long frames as the bridge takes, and an address that it will not take. Raises CannotStart, OSError."""
    asked = struct.pack("16s24x", nic.bridge.encode())
    mtu = struct.unpack("16xi20x", fcntl.ioctl(control, SIOCGIFMTU, asked))[0]
    if mtu < nic.mtu:
        raise CannotStart(f"bridge {nic.bridge} carries {mtu} bytes, network {nic.network} has an MTU of {nic.mtu}")
    fcntl.ioctl(control, SIOCSIFMTU, struct.pack("16si20x", tap, mtu))
    address = b"\xfe" + bytes.fromhex(nic.mac.replace(":", ""))[1:]
    fcntl.ioctl(control, SIOCSIFHWADDR, struct.pack("16sH6s16x", tap, ARPHRD_ETHER, address))


def _index(control: socket.socket, tap: bytes) -> int:
    return int(struct.unpack("16xi20x", fcntl.ioctl(control, SIOCGIFINDEX, struct.pack("16s24x", tap)))[0])


def _join(control: socket.socket, tap: bytes, bridge: bytes) -> None:
    fcntl.ioctl(control, SIOCBRADDIF, struct.pack("16si20x", bridge, _index(control, tap)))
    flags = struct.unpack("16xH22x", fcntl.ioctl(control, SIOCGIFFLAGS, struct.pack("16s24x", tap)))[0]
    fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sH22x", tap, flags | IFF_UP))


def _close(queues: list[int]) -> None:
    for queue in queues:
        os.close(queue)
