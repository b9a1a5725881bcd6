"""How a recovery goes: what of it is written down, when a promise would be missed, how it is graded. Pure; a part of model.py.

noted    as soon as there is a forecast; at each quarter; when the forecast has moved by more than half of what was left; when it is
         said that it will not be as fast as ever in time. NOTES_MAX at most, of which NOTES_KEPT are for quarters and risks
at risk  each promise once: before it is missed, where that can be seen before
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec.structs import replace

from libs.common.instants import utc
from libs.common.messages import VmId
from proto.recovery import (
    FIRST_S_MAX,
    NORMAL_S_MAX,
    NOTES_MAX,
    SLOW_TIMES,
    Grade,
    Limit,
    NoteRecovery,
    RecoveryAtRisk,
    RecoveryNoted,
    RecoverySeen,
)
from services.io.backups.states import Backups, Hold, Watch

S = 1_000_000
FIRST_S_NEAR = 120
"""after which one that does not run is told: a minute is left to look at it"""
NORMAL_S_NEAR = 750
"""after which one of which nobody tells how far it is, or whose writes are slow, is told: two and a half minutes are left"""
QUARTER = 25.0
MOVED_S_MIN = 10
"""by which a forecast has moved at least to be said anew"""
NOTES_KEPT = 5


def note(command: NoteRecovery, state: Backups) -> Sequence[RecoveryNoted | RecoveryAtRisk]:
    hold = next((hold for hold in state.holds if hold.recovery == command.recovery), None)
    return decided(VmId(command.vm), hold, command.seen, command.now_us) if hold is not None else ()


def decided(vm: VmId, hold: Hold, seen: RecoverySeen, now_us: int) -> Sequence[RecoveryNoted | RecoveryAtRisk]:
    """vm: whose backup. Nothing while the clock shows a time before what was written already: it was set back."""
    watch = hold.watch
    if not seen.ordered_us or seen.home_us or now_us < max(seen.ordered_us, watch.noted_us):
        return ()
    forecast_us = now_us + round(seen.left_s * S) if seen.copying and seen.left_s > 0 else 0
    risks = tuple(_at_risk(vm, hold, seen, forecast_us, now_us))
    wanted = any(risk.limit is Limit.NORMAL for risk in risks) or _worth(watch, seen, forecast_us)
    if not forecast_us or not wanted or watch.notes >= NOTES_MAX:
        return risks
    noted = RecoveryNoted(
        vm=vm, target=hold.target, recovery=hold.recovery, at_us=now_us, percent=seen.percent, mibps=seen.mibps,
        forecast_us=forecast_us, write_us=seen.write_us, normal_us=seen.normal_us, worst_times=seen.worst_times,
    )  # fmt: skip
    return (noted, *risks)


def after(watch: Watch, event: RecoveryNoted | RecoveryAtRisk) -> Watch:
    if isinstance(event, RecoveryAtRisk):
        return replace(watch, risks=(*watch.risks, event.limit))
    return replace(
        watch, notes=watch.notes + 1, noted_us=event.at_us, percent=event.percent, forecast_us=event.forecast_us,
        first_us=watch.first_us or event.forecast_us, worst_times=max(watch.worst_times, event.worst_times),
    )  # fmt: skip


def _worth(watch: Watch, seen: RecoverySeen, forecast_us: int) -> bool:
    """Whether the log is to have it, for what it says of how far it is."""
    if not watch.notes or seen.percent // QUARTER > watch.percent // QUARTER:
        return True
    left_us = watch.forecast_us - watch.noted_us
    moved_us = abs(forecast_us - watch.forecast_us)
    return moved_us > max(MOVED_S_MIN * S, left_us // 2) and watch.notes < NOTES_MAX - NOTES_KEPT


def _at_risk(vm: VmId, hold: Hold, seen: RecoverySeen, forecast_us: int, now_us: int) -> Iterator[RecoveryAtRisk]:
    for limit, within_s, why in (
        (Limit.FIRST, FIRST_S_MAX, _first(hold, seen, now_us)),
        (Limit.NORMAL, NORMAL_S_MAX, _normal(hold, seen, forecast_us, now_us)),
    ):
        if why and limit not in hold.watch.risks:
            yield RecoveryAtRisk(
                vm=vm, target=hold.target, recovery=hold.recovery, limit=limit, due_us=seen.ordered_us + within_s * S,
                forecast_us=forecast_us if limit is Limit.NORMAL else 0, sentence=f"{hold.target} {why}",
            )  # fmt: skip


def _first(hold: Hold, seen: RecoverySeen, now_us: int) -> str:
    """Why it would not run in time; empty: it may."""
    if seen.started_us or not hold.watch.start:
        return ""
    if seen.failed:
        return f"did not start ({seen.failed}), and is promised to run within {FIRST_S_MAX} s of the order"
    since_s = (now_us - seen.ordered_us) // S
    return (
        f"does not run {since_s} s after the order, and is promised to within {FIRST_S_MAX} s"
        if since_s >= FIRST_S_NEAR
        else ""
    )


def _normal(hold: Hold, seen: RecoverySeen, forecast_us: int, now_us: int) -> str:
    """Why it would not be as fast as ever in time; empty: it may."""
    due_us = seen.ordered_us + NORMAL_S_MAX * S
    promised = f"is promised to be by {utc(due_us)}"
    if forecast_us > due_us:
        rate = f"at {seen.mibps:g} MiB/s, {seen.percent:g} % of its data being home"
        return f"will be as fast as ever at {utc(forecast_us)} ({rate}), and {promised}"
    if now_us < seen.ordered_us + NORMAL_S_NEAR * S or (not hold.watch.start and not seen.started_us):
        return ""
    if not forecast_us:
        return f"is not as fast as ever, and {promised}: nobody tells when its data will be home"
    if seen.normal_us and seen.write_us > SLOW_TIMES * seen.normal_us:
        slow = f"its writes take {seen.write_us} us, {seen.write_us / seen.normal_us:.1f} times what is normal"
        return f"is not as fast as ever, and {promised}: {slow}"
    return ""


def graded(watch: Watch, seen: RecoverySeen) -> Grade | None:
    """Of one that is independent; None: nobody knows when it was ordered, or came home."""
    if not seen.ordered_us or not seen.home_us:
        return None
    home_s = round(max(0, seen.home_us - seen.ordered_us) / S, 3)
    first_ms = max(0, seen.started_us - seen.ordered_us) // 1000 if seen.started_us else 0
    in_time = not watch.start or (seen.started_us > 0 and first_ms <= FIRST_S_MAX * 1000)
    return Grade(
        first_ms=first_ms, home_s=home_s, worst_times=max(watch.worst_times, seen.worst_times),
        met=in_time and home_s <= NORMAL_S_MAX, forecast_us=watch.first_us,
        off_s=round((seen.home_us - watch.first_us) / S, 3) if watch.first_us else 0.0,
    )  # fmt: skip
