"""What is said of a backup that is due and is not being taken."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from libs.common.messages import VmId
from proto import io
from proto.pools import PoolRules, PoolSet
from services.gateway.backup_turns import waits
from tests.contract.gateway_rig import defined, start_requested, started
from tests.model.protected_story import Log, S, requested, taken
from tests.model.test_backup_plans_view import NIGHT, NOON, SET

NOW_US = NIGHT + 5 * S


def night(*events: Any, limit: int = 2) -> Log:
    """a is to be backed up; others are."""
    log = Log()
    log.add("vm-a", defined("a"), start_requested("a"), started("a"), at_s=NOON / S)
    log.backups(SET)
    log.add("pool-safe", PoolSet(pool="safe", rules=PoolRules(backups_at_once=limit)))
    for event in events:
        log.add(f"backups-{event.vm}", event, at_s=NIGHT / S)
    return log


def other(vm: str, **more: Any) -> io.BackupRequested:
    return replace(requested("b1-1", plan="schedule", due_us=NIGHT), vm=VmId(vm), **more)


def test_it_says_whom_it_waits_for() -> None:
    two = night(other("b"), other("c"))
    assert waits(two.model, "a", NOW_US) == "2 others are taken into pool safe, at most 2 at once"
    one = night(other("b"), other("c", pool="fast"), limit=1)
    assert waits(one.model, "a", NOW_US) == "1 other is taken into pool safe, at most 1 at once"
    busy = night(other("b"), other("c"), limit=0)
    assert waits(busy.model, "a", NOW_US) == "n1 does 2 things with backups of others"
    assert waits(night().model, "a", NOW_US) == "its turn has not come"


def test_nothing_is_said_where_nothing_waits() -> None:
    assert waits(night(other("b"), other("c")).model, "a", NIGHT - S) == "", "it is not due"
    begun = night(other("b"), other("c"), requested("b1-2", plan="schedule", due_us=NIGHT))
    assert waits(begun.model, "a", NOW_US) == ""
    done = night(requested("b1-2", plan="schedule", due_us=NIGHT), taken("b1-2", at_s=NIGHT / S))
    assert waits(done.model, "a", NOW_US) == ""
    off = io.BackupPutOff(
        vm=VmId("a"), chore=io.Chore.TAKE, due_us=NIGHT, failures=1, until_us=NOW_US + S, sentence="pool safe is full"
    )
    assert waits(night(off).model, "a", NOW_US) == ""
    assert waits(night().model, "b", NOW_US) == "", "it has no schedule"
