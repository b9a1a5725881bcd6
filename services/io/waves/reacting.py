"""A step that has begun is a recovery, asked for as by a person; what becomes of that, or of its VM, moves the wave on. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from libs.common.messages import Command, Recorded
from proto.compute import VmFound, VmRecoveryRefused, VmRecoveryWaits, VmStarted, VmStartFailed
from proto.recovery import DisksHome, DisksNotRecovered, RecoverVm, RecoveryEnded
from proto.waves import AdvanceWave, WaveRequested, WaveStepBegun

if TYPE_CHECKING:
    from services.io.views import Views


def react(event: Any, recorded: Recorded, views: Views) -> Sequence[Command]:
    match event:
        case WaveStepBegun(vm=vm):
            track = views.waves.tracks.get(vm)
            if track is None or track.recovery:
                return ()
            return [RecoverVm(vm=vm, target=vm, backup=event.backup, lose=vm if event.lose else "")]
        case WaveRequested(wave=wave):
            return [AdvanceWave(wave=wave, now_us=recorded.at_us)]
        case (
            VmStarted() | VmFound() | VmStartFailed() | VmRecoveryRefused() | VmRecoveryWaits() | DisksNotRecovered() | DisksHome()
            | RecoveryEnded()
        ):  # fmt: skip
            track = views.waves.tracks.get(getattr(event, "target", event.vm))
            return [AdvanceWave(wave=track.wave, now_us=recorded.at_us)] if track is not None else ()
        case _:
            return ()


def look(now_us: int, views: Views) -> Iterable[Command]:
    """By the second, for what comes with no event: time, and what was refused."""
    return [AdvanceWave(wave=wave, now_us=now_us) for wave in sorted(views.waves.active)]
