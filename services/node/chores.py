"""Orders that are done once and reported: removing disks, merging their layers at rest, importing and removing images, and all that
is done with backups. A stepper beside model.Agent.

    unknown --order(version)--> doing --done--> reported, repeated until heard --> forgotten at the next version
                                  └ a newer order about the VM's backups: a backup that is taken or read is given up, then that one

Doing one twice changes nothing, so nothing is kept on disk: an agent that restarts does what is ordered again, again.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from libs.common.messages import Fact, Reply
from proto.node import (
    Heard,
    OrderBackup,
    OrderBackupRemoval,
    OrderBackupVerify,
    OrderDisksMerge,
    OrderDisksRemoval,
    OrderImageImport,
    OrderImageRemoval,
)
from services.node.model import AnswerOrder, SendFact
from services.node.vm import REPORT_MAX_US, REPORT_US

type BackupChore = OrderBackup | OrderBackupRemoval | OrderBackupVerify
type Chore = OrderDisksRemoval | OrderDisksMerge | OrderImageImport | OrderImageRemoval | BackupChore


@dataclass(frozen=True, slots=True)
class Work:
    """Let the driver do it, then `on_done(key, version, fact)`. Work that fails for a passing reason is not done: it gives no
    fact, and is begun again when the order is repeated."""

    key: str
    chore: Chore


@dataclass(frozen=True, slots=True)
class GiveUp:
    """End the work under that key, then `on_done` without a fact."""

    key: str


@dataclass(slots=True)
class _Entry:
    """after: what is to be done next, once this is given up or done."""

    chore: Chore
    doing: bool = True
    after: Chore | None = None
    fact: Fact | None = None
    heard: bool = False
    next_us: int = 0
    wait_us: int = REPORT_US


def key_of(chore: Chore) -> str:
    match chore:
        case OrderDisksRemoval():
            return f"disks-{chore.vm}"
        case OrderDisksMerge():
            return f"layers-{chore.vm}"
        case OrderImageImport() | OrderImageRemoval():
            return f"image-{chore.image}"
        case OrderBackup() | OrderBackupRemoval() | OrderBackupVerify():
            return f"backup-{chore.vm}"


def _stamp(chore: Chore) -> tuple[int, int]:
    return chore.incarnation, chore.version


@dataclass(slots=True)
class Chores:
    entries: dict[str, _Entry] = field(default_factory=dict)
    incarnation: int = 1
    """the highest that any order named; orders of older ones are of a lost timeline"""

    def on_order(self, ref: object, chore: Chore, now_us: int) -> list[AnswerOrder | Work | SendFact | GiveUp]:
        key = key_of(chore)
        if chore.incarnation < self.incarnation:
            said = f"the order is of incarnation {chore.incarnation} of the log; this node has met {self.incarnation}"
            return [AnswerOrder(ref, Heard(accepted=False, sentence=said))]
        entry = self.entries.get(key)
        if entry is not None and _stamp(chore) < _stamp(entry.after or entry.chore):
            said = f"order {chore.version} of {key} is older than {(entry.after or entry.chore).version}"
            return [AnswerOrder(ref, Heard(accepted=False, sentence=said))]
        answer = AnswerOrder(ref, Heard(accepted=True))
        if entry is not None and entry.doing and isinstance(chore, OrderBackup | OrderBackupRemoval | OrderBackupVerify):
            return [answer, *_instead(key, entry, chore)]
        if entry is not None and entry.doing:
            return [AnswerOrder(ref, Heard(accepted=_stamp(chore) == _stamp(entry.chore), sentence="busy"))]
        if entry is not None and _stamp(chore) == _stamp(entry.chore) and entry.fact is not None:
            entry.heard, entry.next_us = False, now_us
            return [answer, *self.on_tick(now_us)]
        self.entries[key] = _Entry(chore)
        return [answer, Work(key, chore)]

    def quiet(self) -> bool:
        """Nothing that an older incarnation ordered is being done."""
        return not any(e.doing and e.chore.incarnation < self.incarnation for e in self.entries.values())

    def on_done(self, key: str, version: int, fact: Fact | None, now_us: int) -> list[SendFact | Work]:
        entry = self.entries.get(key)
        if entry is None or entry.chore.version != version:
            return []
        if entry.after is not None:
            self.entries[key] = _Entry(entry.after)
            return [*self.on_tick(now_us), Work(key, entry.after)]
        entry.doing, entry.fact = False, fact
        return [*self.on_tick(now_us)]

    def on_reply(self, key: str, version: int, reply: Reply) -> None:
        entry = self.entries.get(key)
        if entry is not None and entry.chore.version == version and reply.status != "unavailable":
            entry.heard = True

    def on_tick(self, now_us: int) -> list[SendFact]:
        out: list[SendFact] = []
        for key, entry in sorted(self.entries.items()):
            if entry.fact is None or entry.heard or entry.next_us > now_us:
                continue
            entry.next_us, entry.wait_us = now_us + entry.wait_us, min(entry.wait_us * 2, REPORT_MAX_US)
            out.append(SendFact(key, entry.chore.version, "io", entry.fact, entry.chore.correlation))
        return out


def _instead(key: str, entry: _Entry, chore: Chore) -> list[GiveUp]:
    """A newer order about the same VM's backups waits for what is being done; taking and reading are ended for it. Removing is not:
    it would only be gone on with later."""
    if _stamp(chore) == _stamp(entry.after or entry.chore):
        return []
    entry.after = chore
    return [GiveUp(key)] if isinstance(entry.chore, OrderBackup | OrderBackupVerify) else []
