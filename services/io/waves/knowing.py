"""What a command about a wave is told by io's own view, and what is answered to who asks how one would be. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import replace

from libs.common.decider import Refused
from proto.devices import VmPhase
from proto.recovery import RecoveryRequested
from proto.waves import AdvanceWave, AskWave, RecoverMany, WaveCandidate, WaveKnown, WavePlan, WaveSeen, WaveWish
from services.io.backups import keys
from services.io.reach import SILENCE_US_MAX, reaching
from services.io.waves import ordering
from services.io.waves.views import Track

if TYPE_CHECKING:
    from services.io.views import Views

_ask = msgspec.msgpack.Decoder(AskWave).decode


def enrich(command: Any, views: Views, now_us: int) -> Any:
    """Overwrites what only io's own views may say, whoever sent the command."""
    match command:
        case RecoverMany():
            return replace(command, known=known(command.wish, views, now_us), now_us=now_us)
        case AdvanceWave():
            asked_us = views.waves.asked_us.get(command.wave, 0)
            return replace(command, seen=tuple(_seen(command.wave, views)), asked_us=asked_us, now_us=now_us)
        case _:
            return command


def query(what: str, data: bytes, states: Mapping[str, Any], views: Views) -> WavePlan:
    """Raises KeyError for unknown words. A question brings no time with it: a node is heard while it is not silent for longer than
    the one that was heard last."""
    if what != "wave":
        raise KeyError(what)
    wish = _ask(data).wish
    latest_us = max((node.heard_us for node in views.nodes.values()), default=0)
    try:
        order = ordering.order(wish, known(wish, views, latest_us))
    except Refused as no:
        return WavePlan(refused=no.sentence, remedy=no.remedy)
    shown = WavePlan(steps=order.steps, left=order.left, left_more=order.left_more, lose=order.lose)
    try:
        ordering.check(order, wish)
    except Refused as no:
        return replace(shown, refused=no.sentence, remedy=no.remedy)
    return shown


def known(wish: WaveWish, views: Views, now_us: int) -> WaveKnown:
    asked = {*wish.vms, *wish.lose, *(name for one in wish.after for name in (one.vm, one.first))}
    unknown = sorted(vm for vm in asked if vm not in views.vms and vm not in views.waves.kept)
    chosen = set(wish.vms) - set(unknown)
    if wish.all:
        chosen.update(views.vms)
    elif wish.node:
        chosen.update(vm for vm, held in views.disks.items() if held.node == wish.node and vm in views.vms)
    runs = {one.first for one in wish.after if (vm := views.vms.get(one.first)) is not None and vm.phase is VmPhase.RUNNING}
    heard = {name: node for name, node in views.nodes.items() if node.heard_us and now_us - node.heard_us <= SILENCE_US_MAX}
    targets = _targets(views)
    candidates = tuple(_candidate(vm, vm in wish.vms, wish.at_us, views, heard, targets) for vm in sorted(chosen))
    return WaveKnown(candidates=candidates, unknown=tuple(unknown), runs=tuple(sorted(runs)))


def _candidate(
    vm: str, named: bool, at_us: int, views: Views, heard: Mapping[str, Any], targets: Mapping[str, RecoveryRequested]
) -> WaveCandidate:
    there, held, defined = views.vms.get(vm), views.disks.get(vm), views.backups.defined.get(vm)
    disks = {d.pool: d.pool_id for d in held.disks if not d.bus.is_cd} if held is not None else {}
    in_time = [id for id, one in views.waves.kept.get(vm, {}).items() if not at_us or one.taken_us <= at_us]
    backup = next((id for id in reversed(in_time) if views.waves.sound(vm, id)), "")
    saved = views.backups.saved.get(vm, {}).get(backup)
    found = WaveCandidate(
        vm=vm, named=named, phase=there.phase if there is not None else VmPhase.UNKNOWN,
        priority=defined.priority if defined is not None else views.waves.classes.get(vm, WaveCandidate(vm=vm).priority),
        kept=len(views.waves.kept.get(vm, ())), backup=backup, after=views.waves.after.get(vm, ()),
        well=not disks or bool(reaching(heard, disks)), busy=_busy(vm, views, targets),
        silent=held.node if held is not None and held.node not in heard else "",
    )  # fmt: skip
    if not backup or saved is None:
        return replace(found, backup="")
    return replace(
        found, taken_us=views.waves.kept[vm][backup].taken_us, mib=views.waves.mib(vm, backup),
        damaged=in_time[-1] if in_time[-1] != backup else "", where=f"{saved.pool} {saved.pool_id}".rstrip(),
        reached=bool(keys.able(views.nodes, saved)), key=saved.key,
        image=saved.boot_image if saved.boot_image not in views.images else "",
    )  # fmt: skip


def _targets(views: Views) -> Mapping[str, RecoveryRequested]:
    """The recoveries under way, by what they make."""
    return {one.target: one for asked in views.recoveries.asked.values() for one in asked.values()}


def _busy(vm: str, views: Views, targets: Mapping[str, RecoveryRequested]) -> str:
    if (one := targets.get(vm)) is not None:
        return f"it is being recovered from {one.backup} already ({one.recovery})"
    track = views.waves.tracks.get(vm)
    return f"the wave {track.wave} recovers it already" if track is not None else ""


def _seen(wave: str, views: Views) -> Iterable[WaveSeen]:
    """Of those steps of which there is something to say: not of those that wait and may begin, nor of those that are home."""
    targets = _targets(views)
    for vm in views.waves.active.get(wave, ()):
        track = views.waves.tracks.get(vm)
        if track is None or (track.done and track.home):
            continue
        barred = "" if track.recovery else _barred(vm, track, views, targets)
        if track.began or barred:
            yield WaveSeen(
                vm=vm, recovery=track.recovery, asked_us=track.asked_us, ran_us=track.ran_us, home=track.home, failed=track.failed,
                barred=barred,
            )  # fmt: skip


def _barred(vm: str, track: Track, views: Views, targets: Mapping[str, RecoveryRequested]) -> str:
    """What has come in between since it was ordered."""
    there = views.vms.get(vm)
    if track.touched:
        return "it was started since the order, and what it wrote would be lost"
    if (one := targets.get(vm)) is not None:
        return f"it is being recovered from {one.backup} already ({one.recovery})"
    if there is not None and there.phase is not VmPhase.STOPPED:
        return f"it is {there.phase} by now"
    if there is not None and not track.lose:
        return "it is there by now, and nobody said that what it has may be lost"
    if not views.waves.sound(vm, track.backup):
        return f"its backup {track.backup} is gone, or damaged, by now"
    saved = views.backups.saved.get(vm, {}).get(track.backup)
    if saved is None or not keys.able(views.nodes, saved):
        return f"no node reaches its backup {track.backup}" + (" and has its key" if saved and saved.key else "") + " by now"
    return ""
