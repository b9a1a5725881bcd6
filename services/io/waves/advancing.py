"""What of a wave begins next, what is done, and what has failed. Pure.

A step begins when all that it comes after runs, and while fewer than `at_once` do not run yet: a start is what somebody waits for,
and many at once make each of them late. Of so many VMs data may be on its way home (copying_max), and from each pool of backups so
much as that gives in HOME_S (bandwidth_mibps): so what runs is independent by then. A large one that has to wait for its pool is
overtaken by nothing from that pool.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from proto.waves import (
    HOME_S,
    AdvanceWave,
    WaveEnded,
    WaveEvent,
    WaveSeen,
    WaveStep,
    WaveStepBegun,
    WaveStepDone,
    WaveStepFailed,
)
from services.io.waves.evolving import evolve
from services.io.waves.states import Wave, Word

ASKED_MAX = 3
AGAIN_US = 10_000_000
"""how long a recovery that was asked for may take to be in the log before it is asked for again"""
RUNS_US_MAX = 180_000_000
"""how long it may take to run: what is promised. Longer, and it is taken for failed, and holds nobody up any more"""


def advance(tick: AdvanceWave, wave: Wave) -> list[WaveEvent]:
    seen = {one.vm: one for one in tick.seen}
    events: list[WaveEvent] = []
    for part in (_far, _cut_off, _begun):
        for event in part(tick, wave, seen):
            events.append(event)
            wave = evolve(wave, event)
    return events + _over(tick, wave)


def _far(tick: AdvanceWave, wave: Wave, seen: Mapping[str, WaveSeen]) -> Iterator[WaveEvent]:
    """What became of those that have begun."""
    for place, step in enumerate(wave.steps, 1):
        far, one = wave.of(step.vm), seen.get(step.vm, WaveSeen(vm=step.vm))
        if far.word is not Word.BEGUN:
            continue
        if one.ran_us:
            first_ms = max(0, one.ran_us - one.asked_us) // 1000
            yield WaveStepDone(wave=tick.wave, vm=step.vm, recovery=one.recovery, first_ms=first_ms, at_us=one.ran_us)
        elif one.failed:
            yield _failed(tick, step, one.failed)
        elif not one.recovery and tick.now_us - far.at_us >= AGAIN_US:
            if one.barred or far.attempt >= ASKED_MAX:
                asked = f"it was asked for {far.attempt} times, and not begun"
                yield _failed(tick, step, one.barred or asked)
            else:
                yield _begin(tick, wave, step, place, far.attempt + 1)
        elif tick.now_us - far.since_us >= RUNS_US_MAX:
            yield _failed(tick, step, f"it did not run within {RUNS_US_MAX // 1_000_000} s; its recovery goes on without the wave")


def _cut_off(tick: AdvanceWave, wave: Wave, seen: Mapping[str, WaveSeen]) -> Iterator[WaveEvent]:
    """Those that come after one that does not run. A step stands behind all that it comes after, so that one walk finds all."""
    failed = {vm for vm, far in wave.far.items() if far.word is Word.FAILED}
    for step in wave.steps:
        first = next((vm for vm in step.after if vm in failed), "")
        if first and wave.of(step.vm).word is Word.WAITING:
            failed.add(step.vm)
            yield _failed(tick, step, f"it comes after {first}, which was not recovered")


def _begun(tick: AdvanceWave, wave: Wave, seen: Mapping[str, WaveSeen]) -> Iterator[WaveEvent]:
    """Those that may begin now."""
    if wave.cancelled:
        return
    coming = [step for step in wave.steps if _comes_home(wave, step, seen)]
    starting = sum(wave.of(step.vm).word is Word.BEGUN for step in wave.steps)
    pools: dict[str, int] = {}
    for step in coming:
        pools[step.where] = pools.get(step.where, 0) + step.mib
    many, full = len(coming), set[str]()
    for place, step in enumerate(wave.steps, 1):
        if starting >= wave.at_once or (wave.copying_max and many >= wave.copying_max):
            return
        if wave.of(step.vm).word is not Word.WAITING or step.where in full or not _may(wave, step):
            continue
        if barred := seen[step.vm].barred if step.vm in seen else "":
            yield _failed(tick, step, barred)
            continue
        if wave.bandwidth_mibps and pools.get(step.where) and pools[step.where] + step.mib > wave.bandwidth_mibps * HOME_S:
            full.add(step.where)
            continue
        yield _begin(tick, wave, step, place, 1)
        starting, many = starting + 1, many + 1
        pools[step.where] = pools.get(step.where, 0) + step.mib


def _may(wave: Wave, step: WaveStep) -> bool:
    return all(wave.of(vm).word is Word.RUNNING for vm in step.after)


def _comes_home(wave: Wave, step: WaveStep, seen: Mapping[str, WaveSeen]) -> bool:
    """Its data is on its way, or is about to be."""
    word = wave.of(step.vm).word
    return word is Word.BEGUN or (word is Word.RUNNING and step.vm in seen and not seen[step.vm].home)


def _begin(tick: AdvanceWave, wave: Wave, step: WaveStep, place: int, attempt: int) -> WaveStepBegun:
    return WaveStepBegun(
        wave=tick.wave, vm=step.vm, backup=step.backup, attempt=attempt, at_us=tick.now_us, place=place, of=len(wave.steps),
        lose=step.lose, reason=step.reason,
    )  # fmt: skip


def _failed(tick: AdvanceWave, step: WaveStep, sentence: str) -> WaveStepFailed:
    return WaveStepFailed(wave=tick.wave, vm=step.vm, sentence=sentence, at_us=tick.now_us)


def _over(tick: AdvanceWave, wave: Wave) -> list[WaveEvent]:
    words = [wave.of(step.vm).word for step in wave.steps]
    waiting = words.count(Word.WAITING)
    if Word.BEGUN in words or (waiting and not wave.cancelled):
        return []
    ran = [far for far in wave.far.values() if far.word is Word.RUNNING]
    first = sorted(far.first_ms for far in ran)
    return [
        WaveEnded(
            wave=tick.wave, recovered=len(ran), failed=words.count(Word.FAILED), unbegun=waiting, at_us=tick.now_us,
            first_ms_p50=first[(len(first) - 1) // 2] if first else 0, first_ms_max=first[-1] if first else 0,
            took_s=round(max((far.at_us - tick.asked_us for far in ran), default=0) / 1e6, 3),
        )
    ]  # fmt: skip
