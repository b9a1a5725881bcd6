"""Why a backup that a schedule wants by now is not being taken, as far as the log tells. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from libs.common import cron
from services.gateway.views.backups import VmBackup
from services.gateway.words import count

if TYPE_CHECKING:
    from services.gateway.model import ReadModel

BUSY = {"taking": "taken", "deleting": "deleted", "verifying": "read again"}


def waits(model: ReadModel, vm: str, now_us: int) -> str:
    """`2 others are taken into pool safe, at most 2 at once`; empty: nothing is due, or what is due failed and is put off."""
    planned, there = model.plans.all.get(vm), model.vms.all.get(vm)
    if planned is None or there is None or (planned.put_off is not None and planned.put_off.until_us > now_us):
        return ""
    coming = cron.following(planned.plan.cron, max(planned.last_us, planned.set_us))
    if not coming or coming > now_us:
        return ""
    if (own := next((one for one in model.backups.of(vm) if one.state in BUSY), None)) is not None:
        return "" if own.state == "taking" else f"{own.id} is being {BUSY[own.state]}"
    busy = [one for every in model.backups.all.values() for one in every if one.state in BUSY]
    return _by_pool(model, planned.plan.pool, there.node, busy) or _by_node(there.node, busy)


def _by_pool(model: ReadModel, pool: str, node: str, busy: list[VmBackup]) -> str:
    limit, at = model.pools.of(pool).backups_at_once, model.nodes.all.get(node)
    id = at.capabilities.pool_ids.get(pool, "") if at is not None and at.capabilities is not None else ""
    others = sum(one.state == "taking" and one.pool == pool and id in ("", one.pool_id) for one in busy)
    taken = f"{count(others, 'other')} {'is' if others == 1 else 'are'} taken into pool {pool}"
    return f"{taken}, at most {limit} at once" if limit and others >= limit else ""


def _by_node(node: str, busy: list[VmBackup]) -> str:
    """How many a node does at once is io's own matter: what it does is told."""
    others = sum(one.node == node for one in busy)
    return f"{node} does {count(others, 'thing')} with backups of others" if node and others else "its turn has not come"
