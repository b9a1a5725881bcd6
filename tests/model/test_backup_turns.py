"""Many VMs with schedules: whose turn it is, on nodes that take few backups at once; a half year of one VM; agents that fail."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest
from msgspec.structs import replace

from libs.common import cron
from libs.common.messages import NodeId, VmId
from proto.backup_plans import BackupPlan, BackupPutOff, SetBackupPlan
from proto.backups import (
    BackupDeleteRequested,
    BackupRequested,
    BackupTaken,
    CancelBackup,
    ReportBackup,
    ReportBackupRemoved,
    ReportBackupVerified,
    TakeBackup,
)
from proto.compute import VmDeleted, VmStarted
from proto.io import DisksSettled
from proto.machine import Priority
from proto.pools import PoolRules, PoolSet
from services.io.backups.chain import sound
from services.io.backups.model import BACKUPS
from services.io.backups.plans import DAY_US
from services.io.backups.states import Backups, Deleting, Taking, Verifying
from services.io.backups.tending import AT_ONCE_MAX
from services.io.backups.turns import REVIEW_S, look, ticks
from services.io.views import Views, enrich
from tests.model.backup_story import done
from tests.model.compute_story import DEFINED
from tests.model.io_story import HERE, N1, N2
from tests.model.migration_story import ASKED as MOVES
from tests.model.test_cron import us
from tests.model.test_io_backups_told import AT_P1, views

S, MIN_US = 1_000_000, 60_000_000
NIGHT = us("2026-12-02T02:00")
PLAN = BackupPlan(cron="0 2 * * *", pool="safe")


@dataclass
class Io:
    """io over VMs that run, its agents beside it: what they are told they do takes as long as `takes_us`. All commands of a second
    are told what was seen before it, as they are where a service's own events come back to it by the log."""

    views: Views = field(default_factory=views)
    states: dict[str, Backups] = field(default_factory=dict)
    events: list[Any] = field(default_factory=list)
    begun: dict[str, int] = field(default_factory=dict)
    now_us: int = NIGHT - MIN_US
    takes_us: int = 10 * S
    fails: Random | None = None

    def run(self, vm: str, node: NodeId = N1, priority: Priority = Priority.NORMAL) -> None:
        for event in (
            replace(DEFINED, vm=VmId(vm), priority=priority), replace(AT_P1, vm=VmId(vm), node=node),
            DisksSettled(vm=VmId(vm), generation=1), VmStarted(vm=VmId(vm), node=node, generation=1),
        ):  # fmt: skip
            self.views.apply(HERE, event)

    def say(self, *commands: Any) -> list[Any]:
        """They are told what io knows before the first, and decided."""
        told = [enrich(command, self.views, self.now_us) for command in commands]
        found = []
        for command in told:
            found += self._decide(command)
        for event in found:
            self.views.apply(HERE, event)
        return found

    def _decide(self, command: Any) -> list[Any]:
        state = self.states.get(command.vm, Backups())
        events = list(BACKUPS.decide(command, state))
        self.states[command.vm] = BACKUPS.fold(events, state)
        if any(isinstance(event, BackupRequested | BackupDeleteRequested) for event in events):
            self.begun[command.vm] = self.now_us
        for event in (event for event in events if isinstance(event, BackupDeleteRequested)):
            assert event.backup != sound(state.backups)[-1].id, "the newest that is sound is let go"
        self.events += events
        return events

    def second(self, us: int = S) -> list[Any]:
        self.now_us += us
        self._work()
        streams = ((f"backups-{vm}", state) for vm, state in sorted(self.states.items()))
        found = self.say(*ticks(self.now_us, streams), *look(self.now_us, self.views))
        for vm, state in self.states.items():
            assert self.views.plans.schedules.get(vm) == state.schedule, f"io sees another schedule of {vm} than there is"
        return found

    def _work(self) -> None:
        for vm, state in sorted(self.states.items()):
            if state.doing is not None and self.now_us - self.begun.get(vm, 0) >= self.takes_us:
                self.say(self._report(vm, state))

    def _report(self, vm: str, state: Backups) -> Any:
        doing = state.doing
        failed = self.fails is not None and self.fails.random() < 0.5
        match doing:
            case Taking(wish=wish):
                went = {"sentence": "it broke"} if failed else {"done": done(wish, self.now_us)}
                return ReportBackup(vm=vm, node=wish.node, backup=wish.backup, order_version=state.version, **went)
            case Deleting(backup=id, node=node, heirs=heirs):
                known = {one.id: one for one in state.backups}
                anew = {heir: known[heir].disks for heir in heirs}
                said = {"sentence": "it broke"} if failed else {"heirs": anew}
                return ReportBackupRemoved(vm=vm, node=node, backup=id, order_version=state.version, **said)
            case Verifying(backup=id, node=node):
                bad = {id: "a bit"} if failed else {}
                return ReportBackupVerified(vm=vm, node=node, backup=id, order_version=state.version, damaged=bad)
            case _:
                raise AssertionError(doing)

    def taking(self, node: NodeId) -> list[str]:
        return [vm for vm, state in self.states.items() if isinstance(state.doing, Taking) and state.doing.node == node]


def order(events: Sequence[Any]) -> list[str]:
    return [event.vm for event in events if isinstance(event, BackupRequested)]


# --- turns ---------------------------------------------------------------------------------------------------------------------


def test_few_at_once_the_important_first_and_all_in_the_end() -> None:
    io = Io()
    classes = (Priority.BEST_EFFORT, Priority.NORMAL, Priority.CRITICAL, Priority.IMPORTANT)
    for n in range(12):
        io.run(f"v{n:02}", (N1, N2)[n % 2], classes[n // 3])
        io.say(SetBackupPlan(vm=f"v{n:02}", plan=PLAN))
    while io.now_us < NIGHT + 2 * MIN_US:
        io.second()
        for node in (N1, N2):
            assert len(io.taking(node)) <= AT_ONCE_MAX
    asked = [event for event in io.events if isinstance(event, BackupRequested)]
    assert len(asked) == 12
    for node in (N1, N2):
        ranks = [list(Priority).index(event.definition.priority) for event in asked if event.node == node]
        assert ranks == sorted(ranks)
    assert order(asked)[:4] == ["v06", "v07", "v08", "v09"], "critical ones, then the first that is important"


def test_who_waits_longest_is_first_among_equals() -> None:
    io = Io()
    for vm, cron_ in (("a", "1 2 * * *"), ("b", "1 2 * * *"), ("c", "0 2 * * *"), ("d", "0 2 * * *")):
        io.run(vm)
        io.say(SetBackupPlan(vm=vm, plan=replace(PLAN, cron=cron_)))
    io.now_us = NIGHT + 5 * MIN_US
    assert order(io.second()) == ["c", "d"]


def test_what_is_asked_by_hand_counts_and_is_not_hindered() -> None:
    io = Io()
    for vm in ("a", "b", "c", "d"):
        io.run(vm)
    io.say(SetBackupPlan(vm="a", plan=PLAN))
    io.say(SetBackupPlan(vm="d", plan=PLAN))
    io.now_us = NIGHT - 2 * S
    io.say(TakeBackup(vm="b", pool="safe"), TakeBackup(vm="c", pool="safe"))
    assert order(io.second()) == [] and order(io.second()) == []
    assert len(io.taking(N1)) == 2
    while io.now_us < NIGHT + 30 * S:
        io.second()
    assert order(io.events) == ["b", "c", "a", "d"]


def into(io: Io, pool_id: str) -> int:
    """How many are being taken into that pool."""
    doing = [state.doing.wish for state in io.states.values() if isinstance(state.doing, Taking)]
    return sum(wish.pool == "safe" and wish.pool_id == pool_id for wish in doing)


@pytest.mark.parametrize(("limit", "most"), [(1, (1, 1)), (3, (3, 2)), (0, (4, 2))])
def test_so_many_at_once_into_a_pool_and_all_in_the_end(limit: int, most: tuple[int, int]) -> None:
    """Of three nodes, each of which does two things at once; the third has another pool of that name."""
    io, nodes = Io(), (N1, N2, NodeId("n3"))
    own = io.views.nodes["n3"].pool_ids["safe"]
    shared = io.views.nodes["n1"].pool_ids["safe"]
    io.views.apply(HERE, PoolSet(pool="safe", rules=PoolRules(backups_at_once=limit)))
    for n in range(9):
        io.run(f"v{n}", nodes[n % 3])
        io.say(SetBackupPlan(vm=f"v{n}", plan=PLAN))
    seen = [(0, 0)]
    while io.now_us < NIGHT + 3 * MIN_US:
        io.second()
        seen.append((into(io, shared), into(io, own)))
    assert (max(one for one, _ in seen), max(one for _, one in seen)) == most and len(order(io.events)) == 9
    assert PoolRules().backups_at_once == 4


def test_a_pool_that_is_busy_keeps_the_turn_from_nobody_else() -> None:
    io = Io()
    io.views.apply(HERE, PoolSet(pool="safe", rules=PoolRules(backups_at_once=1)))
    for vm, pool in (("a", "safe"), ("b", "safe"), ("c", "default")):
        io.run(vm)
        io.say(SetBackupPlan(vm=vm, plan=replace(PLAN, pool=pool)))
    io.now_us = NIGHT
    assert order(io.second()) == ["a", "c"]


def test_one_that_only_waits_keeps_the_turn_from_nobody() -> None:
    """Two important VMs that are on their way, a third that can be backed up."""
    io = Io()
    for vm in ("a", "b", "c"):
        io.run(vm, priority=Priority.NORMAL if vm == "c" else Priority.CRITICAL)
        io.say(SetBackupPlan(vm=vm, plan=PLAN))
    for vm in ("a", "b"):
        io.views.apply(HERE, replace(MOVES, vm=VmId(vm)))
    io.now_us = NIGHT
    assert order(io.second()) == ["c"]


def test_a_vm_that_was_deleted_is_left_alone_and_seen_to_when_it_is_back() -> None:
    io = Io()
    io.run("a")
    io.say(SetBackupPlan(vm="a", plan=PLAN))
    io.views.apply(HERE, VmDeleted(vm=VmId("a"), node="n1"))
    io.now_us = NIGHT + MIN_US
    assert io.second() == []
    io.run("a")
    assert order(io.second()) == ["a"]


def test_one_that_is_given_up_is_known_as_such() -> None:
    io = Io()
    io.run("a")
    io.say(SetBackupPlan(vm="a", plan=PLAN))
    io.now_us = NIGHT
    (asked,) = io.second()
    io.say(CancelBackup(vm="a", backup=asked.backup))
    state = io.states["a"]
    said = {"vm": "a", "node": asked.node, "backup": asked.backup}
    io.say(ReportBackupRemoved(order_version=state.version, **said))
    for _ in range(600):
        assert io.second() == []


# --- a life ---------------------------------------------------------------------------------------------------------------------


def live(io: Io, days: int) -> None:
    """Each day from before its backup on so long that all can be done, in steps in which every VM is looked at."""
    for _ in range(days):
        night = cron.following(PLAN.cron, io.now_us)
        io.now_us = night - S
        for _ in range(3):
            for _ in range(REVIEW_S):
                io.second()
            io.second(20 * MIN_US)
        for _ in range(5 * REVIEW_S):
            io.second()


def test_half_a_year() -> None:
    """What is kept is what was wished for, and no full one is ever written anew."""
    io = Io(takes_us=S)
    io.run("a")
    plan = replace(PLAN, keep_last=3, keep_daily=7, keep_weekly=4, keep_monthly=6, verify="0 3 * * 0", full_every=4)
    io.say(SetBackupPlan(vm="a", plan=plan))
    live(io, 182)
    taken = [event for event in io.events if isinstance(event, BackupTaken)]
    assert len(taken) == 182
    assert not any(isinstance(event, BackupPutOff) for event in io.events)
    roots = [e for e in io.events if isinstance(e, BackupDeleteRequested) and e.heirs]
    kinds = {event.backup: event.done.kind for event in taken}
    assert all(kinds[event.backup] == "incremental" for event in roots), "a full one was deleted beneath another"
    left = io.states["a"].backups
    days = [(io.now_us - one.taken_us) // DAY_US for one in left]
    assert [day for day in days if day < 7] == [6, 5, 4, 3, 2, 1, 0]
    stands = {one.parent for one in left}
    assert len([one for one in left if one.parent or one.id not in stands]) <= 3 + 7 + 4 + 6
    assert {one.checked_us > 0 for one in left if one.taken_us < io.now_us - 8 * DAY_US} == {True}


@pytest.mark.parametrize("seed", range(8))
def test_agents_that_fail_half_of_the_time(seed: int) -> None:
    """The newest that is sound is never let go, nothing stands still, and there is at most one for each time."""
    io = Io(takes_us=S, fails=Random(seed))
    io.run("a")
    io.say(SetBackupPlan(vm="a", plan=replace(PLAN, keep_last=2, verify="30 2 * * *")))
    live(io, 12)
    assert any(isinstance(event, BackupPutOff) for event in io.events)
    planned = [one.due_us for one in io.states["a"].backups]
    assert planned == sorted(set(planned))
    assert len({event.due_us for event in io.events if isinstance(event, BackupRequested)}) == 12
