"""compute: the nodes of the cluster (streams `node-NAME`)."""

from __future__ import annotations

from typing import Annotated

import msgspec

from libs.common.messages import Command, Event, Fact, Message, Name, NodeId, Value
from proto.machine import Firmware
from proto.networks import Bridge

HealthPct = Annotated[int, msgspec.Meta(ge=0, le=100)]

# --- commands about nodes ----------------------------------------------------------------------------------------------


class Capabilities(Value):
    """What a node can do, probed by running code. share: how many embedded nodes divide this host; memory_mib is this node's part,
    pcpus the host's: of them it may promise pcpus / share.
    swap_mib: encrypted swap or zram that VMs may use (this node's part), swap_memory_mib: what it may take of the memory (zram).
    balloon: guests' memory can be taken back and given again. control_plane: it runs on this host.
    memory_areas: the version of the memory cgroups that areas are made of, `v2` or `v1`; "": none, so nothing is kept apart.
    cells: pCPUs that VMs may run on, by NUMA cell; cores: the threads of each core; isolated: kept from ordinary work by the
    kernel, and from VMs; cells_mib: this node's memory by NUMA cell, in the order of cells; cell_numbers: the kernel's,
    likewise. pool_ids: of each pool a word that no other has: nodes whose words differ reach different disks; move_key: the public
    key that opens moves between hosts. firmware: what VMs may have there; empty: it did not say, so all but uefi. bridges: those
    that VMs may be put into; tap_filter: what VMs send and hear there can be kept to their own VLAN and addresses.
    watchdog: one runs, and guards (docs/watchdog.md): without one nothing there counts as protected. watch_at: `HOST:PORT` where it
    answers probes. lease_pools: those where disks are locked and a lease can be renewed and its silence be proven.
    machine_uuid: the host's, by its firmware: a fence device that answers for it is that host's. backup_keys: the keys of backups
    that it has, by their ids."""

    accelerator: str
    cpu_model: str
    pcpus: int
    memory_mib: int
    qemu_version: str
    machine: str
    driver: str
    cells: tuple[tuple[int, ...], ...] = ()
    pools: tuple[str, ...] = ()
    bridges: tuple[Bridge, ...] = ()
    hotplug: tuple[str, ...] = ()
    not_enforced: tuple[str, ...] = ()
    share: int = 1
    cores: tuple[tuple[int, ...], ...] = ()
    isolated: tuple[int, ...] = ()
    protocol: int = 1
    protocol_min: int = 1
    swap_mib: int = 0
    balloon: bool = False
    memory_areas: str = ""
    pool_ids: dict[str, str] = {}
    move_key: str = ""
    cells_mib: tuple[int, ...] = ()
    swap_memory_mib: int = 0
    control_plane: bool = False
    cell_numbers: tuple[int, ...] = ()
    firmware: tuple[Firmware, ...] = ()
    tap_filter: bool = False
    watchdog: bool = False
    watch_at: str = ""
    machine_uuid: str = ""
    lease_pools: tuple[str, ...] = ()
    backup_keys: tuple[str, ...] = ()


class JoinNode(Command):
    """A node's agent presented a valid one-time token (checked by the gateway) and its public key."""

    node: Name
    key: str
    incarnation: int = 1


class GreetNode(Command):
    """The database was restored: this node is to tell all that it runs, before anything is started, moved or deleted."""

    node: Name
    incarnation: int = 1


class ReportNode(Fact):
    """The agent's hello: after each start of its own and each change. Decides nothing when nothing changed. greeting: the
    incarnation of the greeting that it answers; all that the node runs was reported, and heard, since then.
    finalized: the protocol that all must speak, filled in by compute's own view. health_pct: 100 where nothing is known to be
    wrong, 0: not to be used; health_reason: what is wrong, in a few words."""

    capabilities: Capabilities
    boot_id: str
    address: str = ""
    greeting: int = 0
    incarnation: int = 1
    finalized: int = 1
    health_pct: HealthPct = 100
    health_reason: Annotated[str, msgspec.Meta(max_length=200)] = ""


class CordonNode(Command):
    node: Name
    reason: str = ""


class UncordonNode(Command):
    node: Name


class RemoveNode(Command):
    """Its agent takes away what it made of its host first. at_once: without asking it. vms: those on the node, online: it was heard
    lately; both filled in by compute's own view just before it decides."""

    node: Name
    vms: tuple[str, ...] = ()
    at_once: bool = False
    online: bool = False


class ReportLeft(Fact):
    """The agent has taken away what it made of its host; left: what stays, a sentence each. refused: why it has taken away nothing,
    and goes on."""

    left: Annotated[tuple[Annotated[str, msgspec.Meta(max_length=300)], ...], msgspec.Meta(max_length=10)] = ()
    refused: Annotated[str, msgspec.Meta(max_length=300)] = ""


# --- events about nodes ------------------------------------------------------------------------------------------------


class NodeJoined(Event):
    node: NodeId
    key: str
    incarnation: int = 1


class NodeReported(Event):
    """incarnation: the latest in which it has told all that it runs."""

    node: NodeId
    capabilities: Capabilities
    boot_id: str
    address: str = ""
    incarnation: int = 1


class NodeHealthChanged(Event):
    """How well the node does, in percent; placement keeps away from one that does badly. reason: empty at 100."""

    node: NodeId
    health_pct: int
    reason: str = ""


class NodeGreetingRequested(Event):
    node: NodeId
    incarnation: int


class NodeCordoned(Event):
    node: NodeId
    reason: str = ""


class NodeUncordoned(Event):
    node: NodeId


class NodeLeaveRequested(Event):
    """Its agent is to take away what it made of its host; then the node is removed."""

    node: NodeId


class NodeLeaveRefused(Event):
    """It has taken away nothing and goes on as a member, cordoned."""

    node: NodeId
    sentence: str


class NodeRemoved(Event):
    """left: what its agent could not take away from its host."""

    node: NodeId
    left: tuple[str, ...] = ()


NodeCommand = JoinNode | ReportNode | CordonNode | UncordonNode | RemoveNode | GreetNode | ReportLeft
NodeEvent = (
    NodeJoined | NodeReported | NodeCordoned | NodeUncordoned | NodeRemoved | NodeGreetingRequested | NodeHealthChanged
    | NodeLeaveRequested | NodeLeaveRefused
)  # fmt: skip

# --- to the agent ------------------------------------------------------------------------------------------------------


class OrderLeave(Message):
    """The node is to be removed: take away what you made of the host, and say so (ReportLeft)."""

    node: Name
    version: int
    correlation: str = ""
    incarnation: int = 1
