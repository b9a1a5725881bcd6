"""The bridges of this machine, which taps of VMs can be put into, and how they lead out. Only read: they are the host's own."""

from __future__ import annotations

from pathlib import Path

from proto.networks import Bridge, Uplink
from services.node.host.identity import ROOT
from services.node.host.text import read, read_int

INTERFACES = Path("sys/class/net")
BRIDGES_MAX, UPLINKS_MAX, MEMBERS_MAX = 64, 16, 16
"""told of one machine, of one bridge, of one bond"""


def bridges(root: Path = ROOT) -> tuple[Bridge, ...]:
    """By name. An interface that goes away meanwhile is left out."""
    names = sorted(p.parent.name for p in (root / INTERFACES).glob("*/bridge"))
    return tuple(_bridge(root / INTERFACES, name) for name in names[:BRIDGES_MAX])


def _bridge(interfaces: Path, name: str) -> Bridge:
    ports = sorted(p.name for p in (interfaces / name / "brif").glob("*"))
    found = (_uplink(interfaces, port) for port in ports if not (interfaces / port / "tun_flags").exists())
    return Bridge(name=name, mtu=read_int(interfaces / name / "mtu", 1500), uplinks=tuple(found)[:UPLINKS_MAX])


def _uplink(interfaces: Path, name: str) -> Uplink:
    own = interfaces / name
    kind = _kind(own)
    members: tuple[tuple[str, bool], ...] = ()
    if kind == "bond":
        slaves = sorted(read(own / "bonding" / "slaves").split())[:MEMBERS_MAX]
        members = tuple((slave, _carries(interfaces / slave)) for slave in slaves)
    speed = max(0, read_int(own / "speed", 0))  # -1: not known
    return Uplink(name=name, kind=kind, carrier=read_int(own / "carrier", 0) == 1, speed_mbps=speed, members=members)


def _kind(own: Path) -> str:
    """As the kernel calls the kind of device, where it has one; a card of the machine is a `nic`."""
    if (own / "bonding").exists():
        return "bond"
    lines = read(own / "uevent").splitlines()
    kind = next((line.partition("=")[2] for line in lines if line.startswith("DEVTYPE=")), "")
    if not kind and not (own / "device").exists():
        # a veth says nothing of itself, but that its other end has another number
        other, number = read_int(own / "iflink", 0), read_int(own / "ifindex", 0)
        kind = "veth" if other != number else "virtual"
    return kind or "nic"


def _carries(slave: Path) -> bool:
    """As the bond sees it; where it does not say, whether the cable is in."""
    seen = read(slave / "bonding_slave" / "mii_status")
    return seen == "up" if seen else read_int(slave / "carrier", 0) == 1

