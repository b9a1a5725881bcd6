"""What has to be in the log before it is granted: term, boot, pools and length of each lease. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from libs.lease.times import times
from proto.lease import AskGrant, TakeLease
from services.ha import rules
from services.ha.effects import Picture
from services.ha.signs import Node
from services.ha.states import Lease, Lost, Trusted

if TYPE_CHECKING:
    from services.ha.grantor import Grantor

SHARED_MIN = 2
RETELL_US = 500_000
FRESH_LEASE = Trusted()


def shared(picture: Picture) -> frozenset[str]:
    """Pools that more than one node reports by the same word."""
    count = Counter(pool for member in picture.members.values() for pool in member.pools)
    return frozenset(pool for pool, nodes in count.items() if nodes >= SHARED_MIN)


def nameable(grantor: Grantor, name: str, ask: AskGrant, now_us: int) -> tuple[str, ...]:
    """The pools by which this node may renew: it reaches them, and so does another, which can look, and does. One that was shared
    stays named as long as the node reaches it: were its partner removed, this node is not to lose its second path."""
    lease = grantor.picture.leases.get(name)
    kept = lease.pools if lease is not None else ()
    may = {pool for pool in ask.pools if pool in grantor.shared or pool in kept}
    return tuple(sorted(may - rules.unread(grantor.node(name), may, grantor.listens_us, now_us)))


def take(grantor: Grantor, now_us: int, wall_us: int) -> Sequence[TakeLease]:
    """Leases whose record does not say what is about to be granted, or says more than can be in the node's hands."""
    out: list[TakeLease] = []
    for name in sorted(grantor.picture.members):
        lease = grantor.picture.leases.get(name, FRESH_LEASE)
        node = grantor.node(name)
        wanted = _wanted(grantor, name, lease, node, now_us, wall_us)
        if wanted != _as_it_is(name, lease, wall_us, lease.term) and node.due("take", now_us, RETELL_US):
            out.append(wanted)
    return out


def _wanted(grantor: Grantor, name: str, lease: Lease, node: Node, now_us: int, wall_us: int) -> TakeLease:
    ask, tolerant, incarnation = node.ask, grantor.picture.ha.settings.tolerant, grantor.picture.incarnation
    if ask is not None and rules.untold(lease, ask, incarnation):
        return _told(grantor, name, lease, ask, now_us, wall_us)
    away = isinstance(lease, Lost) or node.declared is not None
    if away or ask is None or lease.boot_id not in ("", ask.boot_id):
        return _as_it_is(name, lease, wall_us, grantor.term)
    named = set(nameable(grantor, name, ask, now_us))
    held = {pool for pool in lease.pools if pool not in named and not _let_go(grantor, lease, node, ask, pool, now_us)}
    long = tolerant or (lease.tolerant and not _short_by_now(grantor, node, ask, now_us))
    return TakeLease(
        node=name, now_us=wall_us, term=grantor.term, boot_id=ask.boot_id, pools=tuple(sorted(named | held)), tolerant=long,
        address=ask.address or grantor.picture.members[name].address, told_in=incarnation if incarnation > 1 else 0,
    )  # fmt: skip


def _told(grantor: Grantor, name: str, lease: Lease, ask: AskGrant, now_us: int, wall_us: int) -> TakeLease:
    """A lease that lasts by the node's own clock, with all by which it may be renewing it: a restored log may know less."""
    later = ask.epoch > lease.epoch
    if not rules.lasts(lease, ask) or (grantor.node(name).declared is not None and not later):
        return _as_it_is(name, lease, wall_us, grantor.term)
    pools = {*nameable(grantor, name, ask, now_us), *(ask.renews or ()), *(() if later else lease.pools)}
    return TakeLease(
        node=name, now_us=wall_us, term=grantor.term, boot_id=ask.boot_id, pools=tuple(sorted(pools)),
        tolerant=grantor.picture.ha.settings.tolerant or lease.tolerant or ask.tolerant,
        address=ask.address or grantor.picture.members[name].address, epoch=ask.epoch if later else 0,
        told_in=grantor.picture.incarnation,
    )  # fmt: skip


def _as_it_is(name: str, lease: Lease, wall_us: int, term: int) -> TakeLease:
    return TakeLease(
        node=name, now_us=wall_us, term=term, boot_id=lease.boot_id, pools=lease.pools, tolerant=lease.tolerant,
        address=lease.address, told_in=lease.told_in,
    )  # fmt: skip


def _let_go(grantor: Grantor, lease: Lease, node: Node, ask: AskGrant, pool: str, now_us: int) -> bool:
    """The node says that it renews by other pools, and each grant that named this one is spent by now, however late it came."""
    if ask.renews is None or pool in ask.renews:
        return False
    named_us = max(node.named_us.get(pool, 0), grantor.floor_us(Node()))
    return now_us - named_us >= rules.wait_us(lease.times) and node.asked_us - named_us >= rules.wait_us(lease.times)


def _short_by_now(grantor: Grantor, node: Node, ask: AskGrant, now_us: int) -> bool:
    """The node has taken a short lease, and each long one is spent."""
    if ask.renews is None or ask.tolerant:
        return False
    long_us = max(node.tolerant_us, grantor.floor_us(Node()))
    return node.asked_us - long_us >= rules.wait_us(times(True))
