"""Tasks about waves of recoveries: begun by the order, over when all run that could. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proto import waves as w
from services.gateway.words import count

if TYPE_CHECKING:
    from services.gateway.tasks.stories import _Story

WAVE, CANCEL = "recover-many", "cancel-wave"


def waves(s: _Story) -> bool:
    match s.event:
        case w.WaveRequested(wave=wave, steps=steps):
            s.begin(WAVE, wave, f"{count(len(steps), "VM")} to recover")
        case w.WaveStepBegun(wave=wave, vm=vm, place=place, of=of):
            s.step(WAVE, wave, f"{vm} is to be recovered ({place} of {of})")
        case w.WaveStepDone(wave=wave, vm=vm, first_ms=first_ms):
            s.step(WAVE, wave, f"{vm} runs after {first_ms} ms")
        case w.WaveStepFailed(wave=wave, vm=vm, sentence=said):
            s.step(WAVE, wave, f"{vm} was not recovered: {said}")
        case w.WaveCancelRequested(wave=wave):
            s.step(WAVE, wave, "nothing more begins")
            s.at_once(CANCEL, wave, f"nothing more of {wave} begins; what has begun goes on")
        case w.WaveEnded(wave=wave, recovered=recovered, failed=failed, unbegun=unbegun):
            said = f"{count(recovered, "VM")} recovered, the last after {s.event.took_s:g} s"
            said += f"; {failed} not" if failed else ""
            said += f"; {unbegun} not begun" if unbegun else ""
            (s.failed if failed or unbegun else s.done)(WAVE, wave, said)
        case _:
            return False
    return True
