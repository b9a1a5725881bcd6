"""Many VMs recovered by one order (stream `wave-NAME`). Pure.

                      all that it comes after runs,        seen to run
                      and the wave has room                by its recovery
    waiting ──────────────────────────────▶ begun ──────────────────────▶ running
       │                                      │ ⟲ not in the log after AGAIN_US: asked again, ASKED_MAX times
       │ what it comes after has failed,      │ refused, its start failed, or not running after RUNS_US_MAX
       └ or it may not be begun any more ─────┴──────────────────────────▶ failed

    asked for ──▶ steps begin ──▶ ended, once nothing waits or is begun      cancel: nothing more begins

It decides who is next, and counts; how a VM is recovered is decided in its own streams, as for any recovery. What a step came to is
seen in io's own view (AdvanceWave), so that neither an event that is missed nor a crash leaves a wave behind. A name is used once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from libs.common.decider import Decider, Refused
from proto.io import Refusal
from proto.waves import AdvanceWave, CancelWave, RecoverMany, WaveCancelRequested, WaveCommand, WaveEvent, WaveRequested
from services.io.waves import ordering
from services.io.waves.advancing import advance
from services.io.waves.evolving import evolve
from services.io.waves.states import Wave


def decide(command: WaveCommand, wave: Wave) -> Sequence[WaveEvent]:
    match command:
        case RecoverMany():
            return _ask(command, wave)
        case CancelWave():
            if not wave.steps:
                said = f"there is no wave {command.wave}"
                raise Refused(Refusal.WAVE_UNKNOWN, said, "see asvctl recovery waves")
            return () if wave.ended or wave.cancelled else [WaveCancelRequested(wave=command.wave)]
        case AdvanceWave():
            return advance(command, wave) if wave.steps and not wave.ended else ()


def _ask(command: RecoverMany, wave: Wave) -> Sequence[WaveEvent]:
    """Raises Refused."""
    if wave.steps:
        raise Refused(Refusal.WAVE_KNOWN, f"there was a wave {command.wave} already", "take another name")
    wish = command.wish
    order = ordering.order(wish, command.known)
    ordering.check(order, wish)
    return [
        WaveRequested(
            wave=command.wave, steps=order.steps, at_us=command.now_us, left=order.left, left_more=order.left_more,
            until_us=wish.at_us, at_once=wish.at_once, copying_max=wish.copying_max, bandwidth_mibps=wish.bandwidth_mibps,
        )
    ]  # fmt: skip


WAVE: Decider[WaveCommand, Wave, WaveEvent] = Decider(
    kind="wave",
    commands=get_args(WaveCommand),
    events=get_args(WaveEvent),
    state=Wave,
    key=lambda command: command.wave,
    initial=Wave(),
    decide=decide,
    evolve=evolve,
)
