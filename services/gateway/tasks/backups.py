"""Tasks about a VM's backups and about what is recovered from them: begun by the wish, ended by what is seen. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from libs.common.registry import members
from proto import compute as c
from proto import io
from proto.recovery import RecoveryAgentHeard

if TYPE_CHECKING:
    from services.gateway.tasks.stories import _Story

TAKE, DELETE, VERIFY, CANCEL, RECOVER = "take-backup", "delete-backup", "verify-backup", "cancel-backup", "recover"
KINDS = (io.ChangeKind.RECOVER, io.ChangeKind.HOME)
HEARD = frozenset({
    *members(io.BackupsEvent), *members(io.RecoveryEvent), *members(io.RecoveredEvent), *members(c.VmRecoveryEvent),
    io.DevicesChanged, c.VmDefined, c.VmStarted,
})  # fmt: skip
"""all else changes nothing here, and is most of the log: it is passed over by one look"""


def backups(s: _Story) -> bool:
    if type(s.event) not in HEARD:
        return False
    match s.event:
        case io.BackupRequested(vm=vm, backup=backup, node=node, parent=parent):
            how = f"incremental, on {parent}" if parent else "full"
            at_rest = "" if s.event.generation else ", of a VM at rest"
            s.begin(TAKE, f"{vm}/{backup}", f"{node} was told to take {backup} ({how}{at_rest}) into pool {s.event.pool}")
        case io.BackupCancelRequested(vm=vm, backup=backup) if s.tasks.opened(f"{VERIFY}:{vm}/{backup}") is not None:
            s.failed(VERIFY, f"{vm}/{backup}", "it was given up")
            s.at_once(CANCEL, f"{vm}/{backup}", f"{backup} is not read any more; it stays as it is")
        case io.BackupCancelRequested(vm=vm, backup=backup):
            s.step(TAKE, f"{vm}/{backup}", "it is being given up")
            s.begin(CANCEL, f"{vm}/{backup}", "its node was told to give it up")
        case io.BackupTaken(vm=vm, backup=backup, done=done):
            why = f"; {done.sentence}" if done.sentence else ""
            took = f"{done.copied_mib} MiB read in {done.took_ms} ms"
            s.done(TAKE, f"{vm}/{backup}", f"{backup} of {vm} is taken ({done.kind}, {done.consistency}): {took}{why}")
            s.failed(CANCEL, f"{vm}/{backup}", f"{backup} was taken already")
        case io.BackupFailed(vm=vm, backup=backup, sentence=said):
            s.failed(TAKE, f"{vm}/{backup}", f"{backup} of {vm} was not taken: {said}")
            s.done(CANCEL, f"{vm}/{backup}", f"{backup} was given up, and nothing of it is left")
        case _:
            return _kept(s) or recoveries(s)
    return True


def _kept(s: _Story) -> bool:
    match s.event:
        case io.BackupDeleteRequested(vm=vm, backup=backup, node=node, heirs=heirs):
            first = f"; {', '.join(heirs)} stood on it and is written anew first" if heirs else ""
            s.begin(DELETE, f"{vm}/{backup}", f"{node} was told to remove it{first}")
        case io.BackupDeleted(vm=vm, backup=backup):
            s.done(DELETE, f"{vm}/{backup}", f"{backup} of {vm} is gone" + (f": {s.event.sentence}" if s.event.sentence else ""))
        case io.BackupDeleteFailed(vm=vm, backup=backup, sentence=said):
            s.failed(DELETE, f"{vm}/{backup}", f"{backup} of {vm} is still there: {said}")
        case io.BackupVerifyRequested(vm=vm, backup=backup, node=node):
            s.begin(VERIFY, f"{vm}/{backup}", f"{node} reads it again, and all that it stands on")
        case io.BackupVerified(vm=vm, backup=backup):
            read = f"{s.event.read_mib} MiB read in {s.event.took_ms} ms"
            s.done(VERIFY, f"{vm}/{backup}", f"{backup} of {vm} is what was written ({read})")
        case io.BackupDamaged(vm=vm, backup=backup, found=found):
            said = "; ".join(f"{name}: {sentence}" for name, sentence in sorted(found.items()))
            s.failed(VERIFY, f"{vm}/{backup}", f"damaged: {said}")
        case _:
            return False
    return True


def recoveries(s: _Story) -> bool:
    """A start that it leads to carries the same task on, for it is of the same story and the same VM."""
    match s.event:
        case io.RecoveryRequested(vm=vm, target=target, backup=backup):
            s.begin(RECOVER, target, f"{backup} of {vm} is held for it")
        case c.VmRecoveryPrepared(vm=vm):
            s.step(RECOVER, vm, f"{vm} is defined and stopped")
        case io.DevicesChanged(change=io.Change(kind=kind)):
            return kind in KINDS
        case io.DisksRecovered(vm=vm, source=source, start=True):
            s.step(RECOVER, vm, f"its disks stand on the backup of {source}")
        case io.DisksRecovered(vm=vm, source=source):
            said = f"the disks of {vm} stand on the backup of {source}; it was not to be started (asvctl vm start {vm})"
            s.done(RECOVER, vm, said)
        case c.VmRecoveryRefused(vm=vm, sentence=said) | io.DisksNotRecovered(vm=vm, sentence=said):
            s.failed(RECOVER, vm, said)
        case c.VmRecoveryWaits(vm=vm, sentence=said):
            s.failed(RECOVER, vm, f"{vm} is made, and waits for its start: {said}")
        case io.RecoveryEnded(target=target, end=io.EndKind.INDEPENDENT):
            s.done(RECOVER, target, f"{target} stands on no backup any more")
        case io.RecoveryEnded(target=target, sentence=said):
            s.failed(RECOVER, target, said or f"{target} was deleted first")
        case io.DisksHome() | io.RecoveryNoted() | io.RecoveryAtRisk() | RecoveryAgentHeard():
            pass
        case _:
            return _on_the_way(s)
    return True


def _on_the_way(s: _Story) -> bool:
    """What befalls a VM that is being recovered; False: it is also told as of any VM."""
    vm = getattr(s.event, "vm", "")
    if not vm or s.tasks.opened(f"{RECOVER}:{vm}") is None:
        return False
    match s.event:
        case c.VmDefined():
            s.step(RECOVER, vm, "defined as it was when it was backed up")
            return True
        case c.VmStarted(node=node):
            s.done(RECOVER, vm, f"{vm} runs on {node}, on its backup; its data comes home meanwhile")
    return False
