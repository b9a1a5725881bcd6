"""A node that is heard, and has lost its storage, a bridge's way out or its watchdog: noted and shown. Its VMs are let alone, or
moved as any are moved, where a network is lost and the policy says so. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from proto.lease import NotePaths, Unlinked
from services.ha import rules
from services.ha.signs import Node
from services.ha.states import Lease, Lost

if TYPE_CHECKING:
    from services.ha.grantor import Grantor

STUCK_US = 10_000_000
"""how long a record stands still, of a node that is heard and in a pool that others read, before that is told"""
LASTING_US = 5_000_000
HEARD_US = 2_500_000
TELL_US = 1_000_000


def notes(grantor: Grantor, now_us: int, wall_us: int) -> Sequence[NotePaths]:
    """What has changed."""
    out: list[NotePaths] = []
    for name, member in sorted(grantor.picture.members.items()):
        lease, node = grantor.picture.leases.get(name), grantor.node(name)
        if lease is None or isinstance(lease, Lost) or now_us - node.asked_us > HEARD_US:
            continue
        seen = sorted({*lease.pools, *lease.stuck} & member.pools)
        unread = rules.unread(node, seen, grantor.listens_us, now_us)
        pools = tuple(pool for pool in seen if pool in unread or stuck(grantor, node, lease, pool, now_us))
        networks = lasting(node, lease, member.networks, now_us)
        now = (pools, networks, node.mute)
        if now != (lease.stuck, lease.networks, lease.mute) and node.due("paths", now_us, TELL_US):
            move = member.unlinked and bool(networks) and networks != lease.networks and _moved(grantor)
            out.append(NotePaths(node=name, now_us=wall_us, pools=pools, networks=networks, move=move, mute=node.mute))
    return out


def lasting(node: Node, lease: Lease, networks: tuple[str, ...], now_us: int) -> tuple[str, ...]:
    """A cable that is out for some seconds is nobody's business; one that is in again is well at once."""
    if node.networks[0] != networks:
        node.networks = (networks, now_us)
    return networks if not networks or now_us - node.networks[1] > LASTING_US else lease.networks


def _moved(grantor: Grantor) -> bool:
    ha, members = grantor.picture.ha, grantor.picture.members
    unlinked = sum(member.unlinked for member in members.values())
    return ha.armed and ha.settings.unlinked == Unlinked.MIGRATE and rules.moves(unlinked, len(members))


def stuck(grantor: Grantor, node: Node, lease: Lease, pool: str, now_us: int) -> bool:
    """Its record stands still in a pool that others read just now."""
    record = node.record(pool)
    read = now_us - record.newest_us <= HEARD_US and record.newest_us > 0
    if not read:
        return pool in lease.stuck
    since_us = max(record.moved_us, record.back_us, node.since_us, grantor.born_us, grantor.awake_us)
    return now_us - since_us > STUCK_US
