"""What events say of a VM's backups, and of what is recovered from them. Pure."""

from __future__ import annotations

from typing import Any

from libs.common.instants import utc
from proto import compute as c
from proto import io
from proto.recovery import Grade, RecoveryAgentHeard
from services.gateway.words import count


def of_backups(event: Any) -> str:
    match event:
        case io.BackupRequested():
            return _asked(event)
        case io.BackupCancelRequested():
            return f"what is being done with the backup {event.backup} is to be given up"
        case io.BackupTaken(done=done):
            frozen = f", file systems stood still for {done.frozen_ms} ms" if done.frozen_ms else ""
            on = f" on {done.parent}" if done.parent else ""
            why = f": {done.sentence}" if done.sentence else ""
            return f"the backup {event.backup} is taken ({done.kind}{on}, {done.consistency}{frozen}){why}"
        case io.BackupFailed():
            return f"the backup {event.backup} was not taken: {event.sentence}"
        case io.BackupFilesRead(take=take):
            what = "is taken out" if take else "is looked at"
            return f"{event.path} in the backup {event.backup} {what}, read by {event.node} ({event.read})"
        case io.BackupReadEnded():
            far = "all of it" if event.whole else f"not all: {event.sentence}"
            return f"{event.bytes} bytes of the backup {event.backup} went out ({event.read}), {far}"
        case _:
            return _of_kept(event) or _of_recoveries(event) or _of_recovered(event)


def _asked(event: io.BackupRequested) -> str:
    how = f"incremental, on {event.parent}" if event.parent else "full"
    by = f", as the schedule {event.plan} wants" if event.plan else ""
    disks = count(len(event.disks), "disk")
    return f"{event.node} was ordered to back {disks} up into pool {event.pool} as {event.backup} ({how}{by})"


def _of_kept(event: Any) -> str:
    match event:
        case io.BackupDeleteRequested():
            first = f"; {', '.join(event.heirs)} on it is first put on what it stands on itself" if event.heirs else ""
            return f"{event.node} was ordered to remove the backup {event.backup}{first}"
        case io.BackupDeleted():
            anew = f"; written anew: {', '.join(sorted(event.heirs))}" if event.heirs else ""
            unseen = f"; nobody saw its files removed: {event.sentence}" if event.sentence else ""
            return f"the backup {event.backup} is gone{anew}{unseen}"
        case io.BackupDeleteFailed():
            return f"the backup {event.backup} is still there: {event.sentence}"
        case io.BackupVerifyRequested():
            return f"{event.node} was ordered to read the backup {event.backup} again, with all that it stands on"
        case io.BackupVerified():
            return f"the backup {event.backup} is what was written ({event.read_mib} MiB read in {event.took_ms} ms)"
        case io.BackupDamaged():
            said = "; ".join(f"{name}: {sentence}" for name, sentence in sorted(event.found.items()))
            return f"damage was found as the backup {event.backup} was read: {said}"
        case _:
            return ""


def _of_recoveries(event: Any) -> str:
    match event:
        case io.RecoveryRequested():
            whom = "it is" if event.target == event.vm else f"{event.target} is"
            more = [f"on {event.node}"] if event.node else []
            more += ["with no network"] if event.isolated else []
            more += ["not to be started"] if not event.start else []
            more += ["what is on its disks may be lost"] if event.lose else []
            how = f" ({', '.join(more)})" if more else ""
            return f"{whom} to be recovered from the backup {event.backup}, which is held for recovery {event.recovery}{how}"
        case io.RecoveryNoted():
            far = f"{event.percent:g} % of the data of {event.target} is home, at {event.mibps:g} MiB/s"
            times = event.write_us / event.normal_us if event.normal_us else 0.0
            slow = f"; its writes take {times:.2g} times what is normal" if times else ""
            return f"{far}: it is to be as fast as ever at {utc(event.forecast_us)}{slow}"
        case io.RecoveryAtRisk():
            return f"recovery {event.recovery}: {event.sentence}"
        case RecoveryAgentHeard():
            return f"the agent of {event.target} answers for the first time, {event.after_ms} ms after its recovery was asked for"
        case io.RecoveryEnded(end=io.EndKind.INDEPENDENT):
            return f"recovery {event.recovery} of {event.target} is over: it needs the backup no more{_graded(event.grade)}"
        case io.RecoveryEnded(end=end):
            said = f": {event.sentence}" if event.sentence else ""
            return f"recovery {event.recovery} of {event.target} is over ({end}){said}; the backup is held no more"
        case _:
            return ""


def _graded(grade: Grade | None) -> str:
    if grade is None:
        return ""
    kept = "both promises were kept" if grade.met else "it was late"
    off = f", {abs(grade.off_s):g} s {'later' if grade.off_s > 0 else 'sooner'} than forecast" if grade.forecast_us else ""
    return f" (after {grade.home_s:g} s{off}; {kept})"


def _of_recovered(event: Any) -> str:
    match event:
        case c.VmRecoveryPrepared():
            return f"it is there and stopped, so that recovery {event.recovery} can give it its disks"
        case c.VmRecoveryRefused():
            return f"recovery {event.recovery} was refused: {event.sentence}"
        case c.VmRecoveryWaits():
            remedy = f" (what would help: {event.remedy})" if event.remedy else ""
            return f"recovery {event.recovery} waits, for its start was refused: {event.sentence}{remedy}"
        case io.DisksRecovered():
            former = "; what it had before stays until they are its own" if event.former else ""
            what = f"its disks are new files on the backup of {event.source}"
            return f"{what}{former}" + ("" if event.start else "; it is not to be started")
        case io.DisksNotRecovered():
            return f"its disks were not put on the backup of {event.source}: {event.sentence}"
        case io.DisksHome():
            stood = f" (they stood on {', '.join(event.files)})" if event.files else ""
            return f"all of its disks came home: they were seen to stand on no backup any more{stood}"
        case _:
            return ""


def change_of_recovery(change: io.Change) -> str:
    match change.kind:
        case io.ChangeKind.RECOVER:
            return f"its disks are to be new files on a backup (recovery {change.recovery})"
        case io.ChangeKind.HOME:
            return f"its disks stand on no backup any more (recovery {change.recovery})"
        case _:
            return ""
