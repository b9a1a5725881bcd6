"""What the grantor and people see of ha's streams and views. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from proto.haview import HaShown, NodeStanding
from services.ha.effects import Member, Picture
from services.ha.main import HA
from services.ha.node_views import Heard, NodeViews
from services.ha.states import Ha, Isolated, Lease, Lost, Suspected, Trusted
from services.ha.views import Views

MAIN = "ha-main"
LEASE = "lease-"


def members(views: Views) -> Mapping[str, Member]:
    return {
        name: Member(
            pools=frozenset(view.pools), networks=view.networks, unlinked=view.unlinked, address=view.address,
            device=views.fences.device(name),
        )
        for name, view in views.nodes.members.items()
    }  # fmt: skip


def picture(
    states: Mapping[str, Any], views: Views, known: Mapping[str, Member] | None = None, incarnation: int = 1
) -> Picture:
    """known: the members, where they have not changed since."""
    leases = {name.removeprefix(LEASE): state for name, state in states.items() if name.startswith(LEASE)}
    there = members(views) if known is None else known
    return Picture(states.get(MAIN, HA.initial), leases, there, views.nodes.names, incarnation)


def shown(states: Mapping[str, Any], views: Views) -> HaShown:
    found = picture(states, views, {})
    ha, nodes = found.ha, views.nodes
    names = sorted({*nodes.members, *(name for name, lease in found.leases.items() if isinstance(lease, Lost))})
    return HaShown(
        at_us=nodes.now_us, settings=ha.settings, armed=ha.armed, reason=ha.reason, until_us=ha.until_us, held=ha.held,
        remedy=ha.remedy, term=ha.term, holder=ha.holder, term_us=ha.term_us,
        nodes=tuple(_standing(name, found.leases.get(name, Trusted()), ha, nodes) for name in names),
    )  # fmt: skip


def _standing(name: str, lease: Lease, ha: Ha, views: NodeViews) -> NodeStanding:
    heard, member = views.heard.get(name, Heard()), views.members.get(name)
    since_us, sentence = 0, ""
    if isinstance(lease, Suspected | Isolated):
        since_us, sentence = lease.since_us, "; ".join(silence.sentence for silence in lease.silences)
    elif isinstance(lease, Lost):
        since_us, sentence = lease.since_us, lease.proof.sentence

    def named(pools: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(sorted(views.names.get(pool, pool) for pool in pools))

    moved = {views.names.get(pool, pool): at_us for pool, (_, at_us) in sorted(heard.moved.items())}
    return NodeStanding(
        node=name, standing=type(lease).__name__.lower() if lease.boot_id or isinstance(lease, Lost) else "none",
        since_us=since_us, sentence=sentence, epoch=lease.epoch, boot_id=lease.boot_id,
        granted=lease.term == ha.term and not isinstance(lease, Lost), pools=named(lease.pools), tolerant=lease.tolerant,
        control_us=heard.control_us, storage_us=moved,
        beat_us=heard.beat_us, own=heard.own, left_us=heard.left_us, slow=heard.slow,
        watched=member is not None and member.watched, stuck=named(lease.stuck), networks=lease.networks, letter=lease.letter,
    )  # fmt: skip
