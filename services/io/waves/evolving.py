"""How a wave leads on. Pure; a part of model.py."""

from __future__ import annotations

from msgspec.structs import replace

from proto.waves import (
    WaveCancelRequested,
    WaveEnded,
    WaveEvent,
    WaveRequested,
    WaveStepBegun,
    WaveStepDone,
    WaveStepFailed,
)
from services.io.waves.states import Far, Wave, Word


def evolve(wave: Wave, event: WaveEvent) -> Wave:
    match event:
        case WaveRequested():
            return Wave(
                steps=event.steps, at_once=event.at_once, copying_max=event.copying_max,
                bandwidth_mibps=event.bandwidth_mibps,
            )  # fmt: skip
        case WaveStepBegun():
            since_us = wave.of(event.vm).since_us or event.at_us
            return _at(wave, event.vm, Far(word=Word.BEGUN, attempt=event.attempt, at_us=event.at_us, since_us=since_us))
        case WaveStepDone():
            return _at(wave, event.vm, replace(wave.of(event.vm), word=Word.RUNNING, at_us=event.at_us, first_ms=event.first_ms))
        case WaveStepFailed():
            return _at(wave, event.vm, replace(wave.of(event.vm), word=Word.FAILED, at_us=event.at_us))
        case WaveCancelRequested():
            return replace(wave, cancelled=True)
        case WaveEnded():
            return replace(wave, ended=True)


def _at(wave: Wave, vm: str, far: Far) -> Wave:
    return replace(wave, far=wave.far | {vm: far})
