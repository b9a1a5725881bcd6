"""The pools of the cluster: their rules (stream `pool-NAME`), and what io knows of their room when it decides. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from msgspec.structs import replace

from libs.common.decider import Decider, Refused
from libs.common.messages import Value
from proto.io import Refusal
from proto.machine import CDS, Disk
from proto.pools import SILENCE_US_MAX, PoolNow, PoolRoom, PoolRules, PoolsBeat, PoolSet, SetPool, short

NAMES_MAX = 10


class Pool(Value):
    rules: PoolRules = PoolRules()


def decide(command: SetPool, pool: Pool) -> Sequence[PoolSet]:
    if command.pool not in command.known:
        has = ", ".join(command.known[:NAMES_MAX]) or "none"
        raise Refused(Refusal.POOL_UNKNOWN, f"no node has a pool {command.pool}; there are {has}", "name one that there is")
    given = {"over": command.over, "keep_free_pct": command.keep_free_pct, "backups_at_once": command.backups_at_once}
    rules = replace(pool.rules, **{key: value for key, value in given.items() if value is not None})
    return () if rules == pool.rules else [PoolSet(pool=command.pool, rules=rules)]


def evolve(pool: Pool, event: PoolSet) -> Pool:
    return Pool(rules=event.rules)


POOL: Decider[SetPool, Pool, PoolSet] = Decider(
    kind="pool",
    commands=(SetPool,),
    events=(PoolSet,),
    state=Pool,
    key=lambda command: command.pool,
    initial=Pool(),
    decide=decide,
    evolve=evolve,
)


# --- what is known ---------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Seen:
    """What a node last told of its pools."""

    at_us: int
    pools: dict[str, PoolNow]


@dataclass(slots=True)
class PoolViews:
    """rules: by name. provisioned: virtual sizes of all disks, by the pool's word (by its name where a disk does not say it);
    disks: the same by VM, with the files. seen: by node, from telemetry."""

    NOT_OF_LOG: ClassVar = frozenset({"seen"})

    rules: dict[str, PoolRules] = field(default_factory=dict)
    provisioned: dict[str, int] = field(default_factory=dict)
    disks: dict[str, tuple[tuple[str, int], ...]] = field(default_factory=dict)
    seen: dict[str, Seen] = field(default_factory=dict)

    def has(self, vm: str, disks: Iterable[Disk]) -> None:
        """The VM has these disks from now on."""
        now = tuple([(disk.pool_id or _unknown(disk.pool), disk.size_mib) for disk in disks if disk.bus not in CDS])
        before = self.disks.get(vm, ())
        if before == now:
            return
        for key, size_mib in before:
            self.provisioned[key] -= size_mib
            if not self.provisioned[key]:
                del self.provisioned[key]
        if now:
            self.disks[vm] = now
        else:
            del self.disks[vm]
        for key, size_mib in now:
            self.provisioned[key] = self.provisioned.get(key, 0) + size_mib

    def hear(self, beat: PoolsBeat, now_us: int) -> None:
        self.seen[beat.node] = Seen(now_us, {pool.name: replace(pool, files=()) for pool in beat.pools})

    def room(self, node: str, pool: str, now_us: int) -> PoolRoom:
        """Of the pool as that node sees it."""
        seen = self.seen.get(node)
        fresh = seen is not None and now_us - seen.at_us <= SILENCE_US_MAX
        now = seen.pools.get(pool, PoolNow(name=pool)) if seen is not None and fresh else PoolNow(name=pool)
        held = self.provisioned.get(now.id, 0) if now.id else self.provisioned.get(_unknown(pool), 0)
        return PoolRoom(
            name=pool, id=now.id, size_mib=now.size_mib, free_mib=now.free_mib, provisioned_mib=held,
            rules=self.rules.get(pool, PoolRules()), kind=now.kind, backups=now.backups,
        )  # fmt: skip

    def rooms(self, node: str, pools: Iterable[str], now_us: int) -> tuple[PoolRoom, ...]:
        return tuple(self.room(node, pool, now_us) for pool in sorted(set(pools)))


def _unknown(pool: str) -> str:
    return f"?{pool}"


def one_for_all(ids: Mapping[str, Mapping[str, str]], pool: str) -> str:
    """A node that has that pool, where all that do have the same one; "": they differ, or none has. ids: node -> pool -> word."""
    having = {node: words[pool] for node, words in ids.items() if pool in words}
    return min(having) if len(set(having.values())) == 1 else ""


# --- what is asked of it ----------------------------------------------------------------------------------------------


def check(rooms: Iterable[PoolRoom], pool: str, more_mib: int) -> None:
    """Raises Refused where the pool takes no disk that is so much larger."""
    for room in rooms:
        if room.name == pool:
            said, remedy = short(room, more_mib)
            if said:
                raise Refused(Refusal.POOL_FULL, said, remedy)


def lacking(rooms: Iterable[PoolRoom], disks: Sequence[Disk], there: Iterable[Disk]) -> str:
    """Why these disks cannot all be made; "": they can. there: disks that are counted already."""
    known = {(disk.pool_id, disk.file) for disk in there}
    by_name = {room.name: room for room in rooms}
    more: dict[str, int] = {}
    for disk in disks:
        if not disk.made and (disk.pool_id, disk.file) not in known:
            more[disk.pool] = more.get(disk.pool, 0) + disk.size_mib
    said = (short(by_name[pool], mib)[0] for pool, mib in sorted(more.items()) if pool in by_name)
    return next((sentence for sentence in said if sentence), "")
