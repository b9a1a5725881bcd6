"""io: the networks of the cluster (streams `network-NAME`), and the bridges on which they lie. Values of both, and the messages.

A network is what a NIC is put into: a bridge of each node that has one of that name, and a VLAN on it. Bridges, bonds and their
cables are the host administrator's: an agent tells what there is and changes none of it.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from libs.common.messages import Command, Event, Name, Value

USER = "user"
"""The network that is always there: each VM alone, with DHCP from its own QEMU, and nothing behind it."""
BRIDGE_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,14}$"
"""What Linux takes for an interface's name, without what would be a file name's other part."""
VLAN_MAX = 4094
MTU_MIN, MTU_MAX = 1280, 9216
"""bytes; below the first IPv6 does not work"""
QUEUES_MAX = 8

BridgeName = Annotated[str, msgspec.Meta(pattern=BRIDGE_NAME, max_length=15)]
Vlan = Annotated[int, msgspec.Meta(ge=0, le=VLAN_MAX)]
MtuOrNone = Annotated[int, msgspec.Meta(ge=0, le=MTU_MAX)]
Queues = Annotated[int, msgspec.Meta(ge=1, le=QUEUES_MAX)]
Description = Annotated[str, msgspec.Meta(max_length=200)]


# --- what a node has ---------------------------------------------------------------------------------------------------


class Uplink(Value):
    """An interface in a bridge that leads out of the node; taps of VMs are none. kind: as the kernel calls it (`nic` for a card);
    carrier: its cable is in; speed_mbps 0: not told. members: of a bond, each with whether it carries."""

    name: str
    kind: str = "nic"
    carrier: bool = True
    speed_mbps: int = 0
    members: tuple[tuple[str, bool], ...] = ()


class Bridge(Value):
    name: str
    mtu: int = 1500
    uplinks: tuple[Uplink, ...] = ()


def unlinked(bridge: Bridge) -> bool:
    """It has ways out of the node, and none of them carries. (One that never had any is a network of that node alone.)"""
    return bool(bridge.uplinks) and not any(uplink.carrier for uplink in bridge.uplinks)


def faults_of(bridge: Bridge) -> tuple[str, ...]:
    """What is wrong with its ways out, a sentence each."""
    said = []
    for uplink in bridge.uplinks:
        lost = [name for name, carries in uplink.members if not carries]
        if not uplink.carrier:
            said.append(f"{uplink.name}, by which bridge {bridge.name} leads out, has no carrier")
        elif lost:
            rest = len(uplink.members) - len(lost)
            said.append(f"bond {uplink.name} of bridge {bridge.name} lost {', '.join(lost)}; {rest} of its members carry")
    return tuple(said)


# --- networks ----------------------------------------------------------------------------------------------------------


class Network(Value):
    """vlan 0: untagged. mtu: what guests are told, and what a node's bridge has to carry; 0: nothing is told (they take 1500).
    trusted: guests may use MAC addresses that are not their NIC's (routers, nested virtualization)."""

    name: str
    bridge: str
    vlan: int = 0
    mtu: int = 0
    trusted: bool = False
    description: str = ""

    @property
    def filtered(self) -> bool:
        """Whether a tap in it needs a filter: to keep its VLAN apart, or guests to their own addresses."""
        return bool(self.vlan) or not self.trusted


BRIDGES_NAMED_MAX = 5


def lack(network: Network, bridges: tuple[Bridge, ...], tap_filter: bool) -> str:
    """Why a node with these has not that network; empty: it has it."""
    bridge = next((b for b in bridges if b.name == network.bridge), None)
    if bridge is None:
        named = [b.name for b in bridges[:BRIDGES_NAMED_MAX]]
        more = [f"{len(bridges) - len(named)} more"] if len(bridges) > len(named) else []
        return f"no bridge {network.bridge}, on which network {network.name} lies; it has {', '.join(named + more) or 'none'}"
    if unlinked(bridge):
        return f"nothing by which its bridge {bridge.name} leads out has a carrier, and network {network.name} lies on that"
    if bridge.mtu < network.mtu:
        return f"its bridge {bridge.name} carries {bridge.mtu} bytes, network {network.name} has an MTU of {network.mtu}"
    if network.filtered and not tap_filter:
        return f"its kernel cannot keep taps to the VLAN and the addresses of network {network.name}"
    return ""


class CreateNetwork(Command):
    """others: networks of the same bridge and VLAN, by io's own view."""

    network: Name
    bridge: BridgeName
    vlan: Vlan = 0
    mtu: MtuOrNone = 0
    trusted: bool = False
    description: Description = ""
    others: tuple[str, ...] = ()


class SetNetwork(Command):
    """What is None stays. VMs that run keep the network as it was until their next start or move. others: as above, for what it
    would be."""

    network: Name
    bridge: BridgeName | None = None
    vlan: Vlan | None = None
    mtu: MtuOrNone | None = None
    trusted: bool | None = None
    description: Description | None = None
    others: tuple[str, ...] = ()


class DeleteNetwork(Command):
    """used_by: VMs with a NIC in it, by io's own view."""

    network: Name
    used_by: tuple[str, ...] = ()


class Wiring(Value):
    """What is set of a network: all that Network has but its name."""

    bridge: str
    vlan: int = 0
    mtu: int = 0
    trusted: bool = False
    description: str = ""


class NetworkCreated(Event):
    """Version 2: what is set was five loose fields."""

    VERSION = 2
    SINCE = 2
    network: str
    wiring: Wiring


class NetworkChanged(Event):
    """Version 2: as of NetworkCreated. All of it, as it is from now on."""

    VERSION = 2
    SINCE = 2
    network: str
    wiring: Wiring


class NetworkDeleted(Event):
    network: str


def network_of(event: NetworkCreated | NetworkChanged) -> Network:
    is_now = event.wiring
    return Network(
        name=event.network, bridge=is_now.bridge, vlan=is_now.vlan, mtu=is_now.mtu, trusted=is_now.trusted,
        description=is_now.description,
    )  # fmt: skip


def wiring_of(network: Network) -> Wiring:
    return Wiring(
        bridge=network.bridge, vlan=network.vlan, mtu=network.mtu, trusted=network.trusted, description=network.description,
    )  # fmt: skip


NAMED_MAX = 10


def known_names(names: tuple[str, ...]) -> str:
    """Of the networks there are, for a sentence."""
    found = sorted(names)
    more = f" and {len(found) - NAMED_MAX} more" if len(found) > NAMED_MAX else ""
    return f"there are {', '.join([USER, *found[:NAMED_MAX]])}{more}" if found else f"there is only {USER}"


NetworkCommand = CreateNetwork | SetNetwork | DeleteNetwork
NetworkEvent = NetworkCreated | NetworkChanged | NetworkDeleted
