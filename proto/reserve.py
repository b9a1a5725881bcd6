"""ha: what is kept free of all nodes' memory for the VMs of nodes that are lost (stream `reserve-main`). memory, which hears of it
from the log, keeps each ledger's part of it. Sizes in MiB, as ledgers count them."""

from __future__ import annotations

from libs.common.messages import Event, Tick, Value
from proto.lease import Reserve


class Plan(Value):
    """kind, nodes, pct: as set. away: nodes that are lost, or are being emptied: what was kept for them is for their VMs now.
    shares: what is kept on each node. wanted: losses that are to be covered beside those; covers: that are; missing_mib: what would
    have to be free beside for the rest. demand_mib: what the VMs of the largest of them take, waiting_mib: those that are owed
    already. too_large: VMs that fit into no other node's share. sentence: what cannot be guaranteed; empty: all is."""

    kind: Reserve = Reserve.NODES
    nodes: int = 0
    pct: int = 0
    away: tuple[str, ...] = ()
    shares: dict[str, int] = {}
    wanted: int = 0
    covers: int = 0
    missing_mib: int = 0
    demand_mib: int = 0
    waiting_mib: int = 0
    too_large: tuple[str, ...] = ()
    sentence: str = ""


class WeighReserve(Tick):
    """plan: as ha's own view has it; None: nothing changed since it last looked."""

    plan: Plan | None = None


class ReserveSet(Event):
    at_us: int
    plan: Plan


ReserveCommand = WeighReserve
ReserveEvent = ReserveSet
