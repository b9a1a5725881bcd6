"""A backup is found damaged after a recovery from it was asked for: no guest runs on it, and the newest that is sound is named."""

from __future__ import annotations

from typing import Any

import pytest

from libs.common.messages import VmId
from proto.backups import BackupDamaged
from proto.compute import StartVm, VmStartFailed
from proto.hardware import standing
from proto.io import DevicesDenied, DisksNotRecovered
from proto.recovery import EndKind, RecoverVm, RecoveryEnded, RecoveryRequested
from services.compute.states import Launching, Stopped
from tests.model.test_waves_story import lost
from tests.model.waves_story import Waves

ASK = RecoverVm(vm="web", target="web", lose="web")


def damaged(both: Waves, *backups: str) -> None:
    for backup in backups:
        event = BackupDamaged(vm=VmId("web"), backup=backup, found={backup: "a byte of it is another"})
        both.events["backups-web"].append(event)
        both.tell(event)


def twice() -> tuple[Waves, str]:
    both = lost()
    return both, both.backed_up("web", at_us=both.now_us)


@pytest.mark.parametrize("target", ["web", "web-2"])
def test_before_its_disks_are_put_on_it(target: str) -> None:
    both, newer = twice()
    command: Any = RecoverVm(vm="web", target=target, lose="web" if target == "web" else "")
    (asked,) = both.decide(command)
    assert isinstance(asked, RecoveryRequested) and asked.backup == newer
    wishes = both.hear(asked)
    damaged(both, newer)
    both.work(wishes)
    (refused,) = both.of(DisksNotRecovered)
    assert f"the backup {newer} of web" in refused.sentence and "--backup b1-1" in refused.sentence
    assert [one.end for one in both.of(RecoveryEnded)] == [EndKind.REFUSED], "and the backup is held no more"
    assert isinstance(both.vm(target), Stopped)
    if target == "web":
        assert not any(map(standing, both.devices("web").disks)), "what it had is as it was"
        both.say(RecoverVm(vm="web", target="web", lose="web", backup="b1-1"))
        both.runs("web")


def test_before_it_starts() -> None:
    both, newer = twice()
    both.say(RecoverVm(vm="web", target="web", lose="web", start=False))
    damaged(both, newer)
    both.say(StartVm(vm="web"))
    assert isinstance(both.vm("web"), Stopped)
    assert {event.sentence for event in both.of(DevicesDenied)} == {event.sentence for event in both.of(VmStartFailed)}
    assert all("--backup b1-1" in event.sentence for event in both.of(DevicesDenied))
    damaged(both, "b1-1")
    both.say(StartVm(vm="web"))
    assert "none of its backups is sound" in both.of(VmStartFailed)[-1].sentence


def test_one_that_ran_on_it_goes_on() -> None:
    """What it wrote since is worth more than what it may not read."""
    both, newer = twice()
    both.say(ASK)
    both.runs("web")
    both.ends("web")
    damaged(both, newer)
    both.say(StartVm(vm="web"))
    assert isinstance(both.vm("web"), Launching) and not both.of(DevicesDenied)
