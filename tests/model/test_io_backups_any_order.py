"""Backups taken, given up, deleted, verified and recovered from in any order, with agents that fail, are late and are lost: what
one holds does not change, what is held stays, and chains are bounded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from libs.common.decider import Refused
from libs.common.messages import NodeId
from proto.backups import (
    CHAIN_MAX,
    BackupDeleteRequested,
    BackupDone,
    BackupKind,
    BackupRequested,
    BackupVerifyRequested,
    CancelBackup,
    EndBackup,
    SavedDisk,
)
from proto.backups import ReportBackup as Taken
from proto.backups import ReportBackupRemoved as Removed
from proto.backups import ReportBackupVerified as Verified
from proto.node import OrderBackup, OrderBackupRemoval, OrderBackupVerify
from proto.recovery import EndKind, EndRecovery, RecoverKnown, RecoveryRequested
from services.io.backups.chain import chain
from services.io.backups.model import BACKUPS
from services.io.backups.orders import orders
from services.io.backups.states import Backups
from tests.model.backup_story import DELETE, MADE, RECOVER, RUNS, TAKE, VERIFY

STEPS: tuple[str, ...] = (*["backup"] * 12, "take", "take", "elsewhere", "full", "cancel", "delete", "delete", "verify", "recover")
STEPS += (*["work"] * 5, "fail", "unheard", "unheard", "lose", "remove-node", "rot", "late", "restore", "end")
NODES = ("n1", "n2")


@dataclass
class Pool:
    """What lies in it: of each backup, on which it stands, and what was written since that one. What is in rotten ones is not what
    was written."""

    below: dict[str, str] = field(default_factory=dict)
    delta: dict[str, tuple[int, ...]] = field(default_factory=dict)
    rotten: set[str] = field(default_factory=set)

    def holds(self, id: str) -> tuple[int, ...]:
        assert id in self.delta, f"{id} is not there"
        under = self.holds(self.below[id]) if self.below[id] else ()
        return (*under, *self.delta[id])

    def save(self, order: OrderBackup, content: tuple[int, ...], can: bool) -> str:
        """Its parent, where it can be incremental."""
        if order.backup in self.delta:
            return self.below[order.backup]  # it did that before, and its word was lost
        parent = order.parent if can else ""
        self.below[order.backup] = parent
        self.delta[order.backup] = content[len(self.holds(parent)) :] if parent else content
        return parent

    def remove(self, order: OrderBackupRemoval, known: set[str]) -> None:
        """What is left of one that came to nothing may lose what it stood on."""
        for heir in order.heirs:
            if self.below[heir] == order.backup:  # else that was done before it was cut short
                self.delta[heir] = (*self.delta[order.backup], *self.delta[heir])
                if order.backup in self.rotten:
                    self.rotten.add(heir)
                self.below[heir] = order.below
        above = [id for id, below in self.below.items() if below == order.backup and id in known]
        assert not above, f"{above} stand on {order.backup}, which is removed"
        self.below.pop(order.backup, None)
        self.delta.pop(order.backup, None)


def files(id: str, token: int) -> tuple[SavedDisk, ...]:
    return tuple(
        SavedDisk(disk=d.name, file=f"a-{d.name}.{id}.qcow2", size_mib=d.size_mib, bytes=1, sha256=f"{token:064x}") for d in MADE
    )


class Story:
    """A VM, its agents, and what its backups held when they were taken."""

    def __init__(self, seed: int) -> None:
        self.draw = Random(seed)
        self.state = Backups()
        self.pool = Pool()
        self.content: tuple[int, ...] = ()
        self.held: dict[str, tuple[int, ...]] = {}
        self.recovered: dict[str, tuple[str, ...]] = {}
        self.told: list[Any] = []
        self.incarnation = 1
        self.count = 0

    def say(self, command: Any) -> None:
        if hasattr(command, "incarnation"):
            command = replace(command, incarnation=self.incarnation)
        try:
            events = BACKUPS.decide(command, self.state)
        except Refused as no:
            assert no.sentence
            return
        for event in events:
            if isinstance(event, BackupRequested | BackupDeleteRequested | BackupVerifyRequested):
                doing = self.state.doing
                assert doing is None or doing.backup == event.backup, f"{doing.backup} and {event.backup} at once"
            if isinstance(event, RecoveryRequested):
                self.recovered[event.recovery] = tuple(layer.origin.backup for layer in event.disks[0].layers if layer.origin)
                assert not any(one.damaged for one in chain(self.state.backups, event.backup)), "it is known to be damaged"
            self.state = BACKUPS.evolve(self.state, event)

    def some(self) -> str:
        return self.draw.choice([one.id for one in self.state.backups] or ["b1-99"])

    def do(self, step: str) -> None:
        self.count += 1
        self.content = (*self.content, self.count)
        node = self.draw.choice(NODES)
        match step:
            case "backup" if self.state.doing is None:
                self.say(replace(TAKE, known=replace(RUNS, node=node)))
                self._work(fails=False)
            case "take" | "full" | "elsewhere":
                known = replace(RUNS, disks=MADE[:1]) if step == "elsewhere" and self.draw.random() < 0.2 else RUNS
                self.say(replace(TAKE, full=step == "full", known=replace(known, node=node)))
            case "cancel" if self.state.doing is not None:
                self.say(CancelBackup(vm="a", backup=self.state.doing.backup))
            case "delete":
                self.say(replace(DELETE, backup=self.some(), node=node))
            case "verify":
                self.say(replace(VERIFY, backup=self.some(), node=node))
            case "recover":
                reached = RecoverKnown(nodes={one.id: NODES for one in self.state.backups}, images=("tiny",))
                which = self.draw.choice(("", self.some()))
                self.say(replace(RECOVER, backup=which, target=f"t{self.count % 3}", known=reached))
            case "end" if self.recovered:
                ended = self.draw.choice(sorted(self.recovered))
                self.say(EndRecovery(vm="a", recovery=ended, end=EndKind.INDEPENDENT))
                del self.recovered[ended]
            case "work" | "fail" | "unheard":
                self._work(fails=step == "fail", heard=step != "unheard")
            case "lose" | "remove-node":
                busy = [self.state.doing.backup] if self.state.doing else []
                if step == "remove-node" and busy and self.mid_deletion(busy[0]):
                    return  # it was done, and nobody will ever know: the next to read it does
                for id in [*busy, *(one.backup for one in self.state.left)]:
                    self.say(EndBackup(vm="a", backup=id, sentence="lost", removed=step == "remove-node", node=node))
            case "rot" if self.pool.delta and self.draw.random() < 0.3:
                self.pool.rotten.add(self.draw.choice(sorted(self.pool.delta)))
            case "late" if self.told:
                self.say(self.draw.choice(self.told))
            case "restore":
                self.incarnation += 1
        self.check()

    def _work(self, *, fails: bool, heard: bool = True) -> None:
        """One agent does what it is told; sometimes its word comes again, later, or is lost."""
        wanted = orders("a", self.state, self.state.version)
        assert len({one.node for one in wanted}) == len(wanted), "a node hears of one thing at a time"
        if not wanted:
            return
        one = self.draw.choice(wanted)
        fact = self._done(one.message, one.node, fails=fails)
        fact = replace(fact, order_incarnation=self.incarnation)
        if heard:
            self.say(fact)
            self.told.append(fact)

    def _done(self, order: Any, node: NodeId, *, fails: bool) -> Any:
        words: dict[str, Any] = {"vm": "a", "node": node, "backup": order.backup, "order_version": order.version}
        match order:
            case OrderBackup() if fails:
                return Taken(sentence="no room", **words)
            case OrderBackup():
                parent = self.pool.save(order, self.content, self.draw.random() < 0.9)
                self.held.setdefault(order.backup, self.content)
                kind = BackupKind.INCREMENTAL if parent else BackupKind.FULL
                disks = tuple(f for f in files(order.backup, self.count) if f.disk in {d.name for d in order.disks})
                return Taken(done=BackupDone(kind=kind, parent=parent, disks=disks, at_us=self.count), **words)
            case OrderBackupRemoval() if fails and order.backup in self.pool.delta:
                return Removed(sentence="read-only", **words)
            case OrderBackupRemoval():
                bad = {one.id for one in self.state.backups if one.damaged}
                assert not (order.heirs and bad & {order.backup, *order.heirs}), "what is damaged is given a new digest"
                self.pool.remove(order, {one.id for one in self.state.backups})
                heirs = {heir: tuple(replace(f, bytes=f.bytes + 1) for f in had) for heir, had in order.heirs.items()}
                return Removed(heirs=heirs, **words)
            case OrderBackupVerify():
                return Verified(damaged={id: "rotten" for id in order.backups if id in self.pool.rotten}, **words)
            case _:
                raise AssertionError(order)

    def check(self) -> None:
        known = [one.id for one in self.state.backups]
        assert len(set(known)) == len(known)
        for one in self.state.backups:
            files_of = chain(self.state.backups, one.id)
            assert len(files_of) <= CHAIN_MAX, f"{one.id} stands on {len(files_of) - 1}"
            assert not one.parent or one.parent in known, f"{one.parent}, on which {one.id} stands, is not known"
            assert (one.kind is BackupKind.FULL) == (not one.parent)
            assert {f.disk for f in one.disks} == {f.disk for f in files_of[-1].disks}
            if not self.mid_deletion(one.id):
                assert self.pool.holds(one.id) == self.held[one.id], f"{one.id} has changed"
        for recovery, stands in self.recovered.items():
            for id in stands:
                assert id in known and id in self.pool.delta, f"{recovery} stands on {id}, which is gone"
        for one in self.state.backups:
            if one.damaged:
                assert one.id in self.pool.rotten, f"{one.id} is sound"

    def mid_deletion(self, id: str) -> bool:
        """Its files are removed already, and the log has not heard of it."""
        return id not in self.pool.delta and self.state.doing is not None and self.state.doing.backup == id


def told(steps: Sequence[str], seed: int) -> Story:
    story = Story(seed)
    for step in steps:
        story.do(step)
    return story


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(STEPS), max_size=60), st.integers(0, 1000))
def test_whatever_comes_in_whatever_order_what_a_backup_holds_stays(steps: list[str], seed: int) -> None:
    told(steps, seed)


def test_all_that_is_checked_happens() -> None:
    """The stories are long enough to come to what they are about."""
    draw = Random(3)
    stories = [told(draw.choices(STEPS, k=80), seed) for seed in range(60)]
    longest = max(len(chain(s.state.backups, one.id)) for s in stories for one in s.state.backups)
    assert longest >= 5
    assert any(s.recovered for s in stories)
    assert any(one.damaged for s in stories for one in s.state.backups)
    assert any(s.state.left for s in stories)
    assert any(len(s.held) > len(s.state.backups) + 3 for s in stories), "some were deleted"


MUTANTS: dict[str, tuple[str, Any]] = {
    "what is held is deleted": ("services.io.backups.removing.holder", lambda *_: None),
    "what is being deleted is recovered from": ("services.io.backups.recovering.Deleting", ()),
    "what stands on a damaged one is recovered from": ("services.io.backups.recovering.damage", lambda *_: None),
    "heirs are forgotten": ("services.io.backups.removing.heirs", lambda *_: ()),
    "two things at once": ("services.io.backups.removing.check_idle", lambda vm, doing: None),
    "chains grow": ("services.io.backups.chain.CHAIN_MAX", 99),
    "any disks will do": ("services.io.backups.chain.sorted", lambda words: 0),
    "what is damaged is written anew": ("services.io.backups.removing._check_heirs", lambda one, after: None),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_each_guard_is_missed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it, some order of steps loses or changes something."""
    where, instead = MUTANTS[name]
    monkeypatch.setattr(where, instead, raising=False)
    draw = Random(1)
    with pytest.raises((AssertionError, KeyError)):
        for seed in range(400):
            told(draw.choices(STEPS, k=80), seed)
