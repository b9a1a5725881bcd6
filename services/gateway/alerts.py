"""What an operator is to look at now, with what would help. Pure: made of the views, nothing of it is recorded anew."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import msgspec
from msgspec.structs import replace

from proto.pools import short
from proto.space import said
from services.gateway import backup_alerts, drill_alerts, guard_alerts, ha_alerts, plan_alerts
from services.gateway.model import ReadModel
from services.gateway.pools import Pool
from services.gateway.views.recoveries import Recovery

ALERTS_MAX = 1000


class Alert(msgspec.Struct):
    """kind: `out-of-space`, `pool-full`, `pool-away`, `fence-device`, `panicked`, `found-dead`, and those of ha_alerts,
    guard_alerts, backup_alerts, plan_alerts and drill_alerts. object: what it is about, as `vm/web-1`. since_us: microseconds
    since the epoch; 0: nobody knows."""

    kind: str
    object: str
    since_us: int
    sentence: str
    remedy: str


def alerts(
    model: ReadModel, pools: Iterable[Pool], sees: Callable[[str], bool], recoveries: Iterable[Recovery] = (), now_us: int = 0
) -> list[Alert]:
    """The oldest first; sees: whether objects of a project are told. recoveries: as they are shown. now_us: the time, for what is
    late; 0: nothing is."""
    every = (
        *_out_of_space(model, sees), *_dead(model, sees), *_pools(pools), *_fences(model), *_ha(model, sees),
        *_backups(model, recoveries, sees), *_late(model, sees, now_us),
    )  # fmt: skip
    found = sorted(every, key=lambda alert: (alert.since_us, alert.object))
    return found[:ALERTS_MAX]


def _out_of_space(model: ReadModel, sees: Callable[[str], bool]) -> Iterator[Alert]:
    for vm in model.vms.all.values():
        if vm.full and sees(vm.project):
            pools = ", ".join(sorted({disk.pool for disk in vm.full}))
            yield Alert(
                kind="out-of-space",
                object=f"vm/{vm.name}",
                since_us=vm.full_us,
                sentence=f"{vm.name} on {vm.node} stands still: {said(vm.full)}",
                remedy=f"free space in pool {pools}, or make it larger; the VM loses nothing and goes on by itself",
            )


def _ha(model: ReadModel, sees: Callable[[str], bool]) -> Iterator[Alert]:
    for found in ha_alerts.said(model.ha, model.nodes.pool_names()):
        yield Alert(*found)
    for found in guard_alerts.said(model.guards, model.ha, model.vms.all, sees, model.nodes.reaching()):
        yield Alert(*found)


def _backups(model: ReadModel, recoveries: Iterable[Recovery], sees: Callable[[str], bool]) -> Iterator[Alert]:
    for found in backup_alerts.said(model.backups, recoveries, sees):
        yield Alert(*found)


def _late(model: ReadModel, sees: Callable[[str], bool], now_us: int) -> Iterator[Alert]:
    if now_us:
        for found in plan_alerts.said(model.plans, model.backups, model.vms.all, now_us, sees):
            yield Alert(*found)
        for found in drill_alerts.said(model.drills, model.vms.all, now_us, sees):
            yield Alert(*found)


def _dead(model: ReadModel, sees: Callable[[str], bool]) -> Iterator[Alert]:
    """Guests that panicked and stand still, and verdicts upon which nothing is done, as long as they hold."""
    for vm in model.vms.all.values():
        if not sees(vm.project) or vm.state == "stopped":
            continue
        if vm.panic:
            remedy = f"asvctl ha verdicts --vm {vm.name} says what is done; else: asvctl vm reset {vm.name}"
            yield Alert("panicked", f"vm/{vm.name}", vm.panic_us, f"{vm.name} on {vm.node} stands still: {vm.panic}", remedy)
        for verdict in model.verdicts.of(vm.name):
            told = verdict.kind in ("hang", "watchdog") and verdict.generation == vm.generation
            if told and not (verdict.treated or verdict.lifted):
                sentence = f"{vm.name} on {vm.node}: {verdict.sentence}; nothing is done: {verdict.why_not}"
                remedy = f"look at it: asvctl vm screenshot {vm.name}; then: asvctl vm reset {vm.name}"
                yield Alert("found-dead", f"vm/{vm.name}", verdict.at_us, sentence, remedy)


def _pools(pools: Iterable[Pool]) -> Iterator[Alert]:
    for pool in pools:
        object = f"pool/{pool.id or pool.name}"
        if pool.error:
            remedy = f"see that {', '.join(pool.nodes)} reach it"
            yield Alert("pool-away", object, 0, f"pool {pool.name} cannot be looked at: {pool.error}", remedy)
        said, remedy = short(replace(pool.room, rules=replace(pool.rules, over=0.0)), 1)
        if said:
            where = pool.nodes[0] if len(pool.nodes) == 1 else f"{len(pool.nodes)} nodes"
            yield Alert("pool-full", object, 0, f"{said} (on {where})", remedy)


def _fences(model: ReadModel) -> Iterator[Alert]:
    """Devices that would prove nothing, told before they are needed."""
    for node, fence in model.fences.all.items():
        if fence.state in ("failing", "doubted"):
            said = f"the fence device of {node} ({fence.kind} at {fence.address}) proves nothing: {fence.sentence}"
            yield Alert("fence-device", f"node/{node}", fence.changed_us, said, fence.remedy)
