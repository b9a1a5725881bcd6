"""What of backups and recoveries is to be looked at: damage, a backup that came to nothing, a recovery that waits or would be late.
Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from services.gateway.ha_alerts import Said
from services.gateway.views.backups import BackupsView, VmBackup
from services.gateway.views.recoveries import Recovery


def said(backups: BackupsView, recoveries: Iterable[Recovery], sees: Callable[[str], bool]) -> Iterator[Said]:
    """recoveries: those that wait, or would be late, are told, but for drills, which end by themselves; sees: whether objects of a
    project are."""
    for every in backups.all.values():
        for one in every:
            if one.damaged and sees(one.project):
                yield _damaged(one, backups)
    for vm, failure in backups.failures.items():
        if sees(failure.project):
            sentence = f"the latest backup of {vm}, {failure.id}, was not taken: {failure.sentence}"
            newest = backups.newest(vm)
            have = f"its newest is {newest.id}" if newest is not None else "it has none"
            yield Said("backup-failed", f"vm/{vm}", failure.at_us, sentence, f"{have}; then: asvctl backup create {vm} --pool POOL")
    for recovery in recoveries:
        if recovery.state == "waiting" and not recovery.drill and sees(recovery.project):
            yield _waits(recovery)
        elif (risk := recovery.at_risk) is not None and sees(recovery.project):
            remedy = f"see asvctl recovery show {recovery.source}.{recovery.id}, and what else its node and its pools do"
            yield Said("recovery-at-risk", f"vm/{recovery.target}", risk.at_us, risk.sentence, remedy)


def _waits(one: Recovery) -> Said:
    sentence = f"{one.target} is recovered from {one.backup} of {one.source}, and is not started: {one.sentence}"
    remedy = f"nothing is lost meanwhile; see asvctl why vm/{one.target}, then: asvctl vm start {one.target}"
    return Said("recovery-waits", f"vm/{one.target}", one.changed_us, sentence, remedy)


def _damaged(one: VmBackup, backups: BackupsView) -> Said:
    above = [other.id for other in backups.of(one.vm) if other.unsound == one.id]
    also = f"; of no use with it: {', '.join(above)}" if above else ""
    sentence = f"the backup {one.id} of {one.vm} is damaged: {one.damaged}{also}"
    newest = backups.newest(one.vm)
    have = f"the newest that is sound is {newest.id}" if newest is not None else f"{one.vm} has no sound one"
    remedy = f"{have}; take a new one: asvctl backup create {one.vm} --pool {one.pool} --full"
    return Said("backup-damaged", f"backup/{one.vm}/{one.id}", one.damaged_us, sentence, remedy)
