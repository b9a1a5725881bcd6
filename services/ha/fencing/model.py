"""Fence devices (stream `fence-NODE`): set, tested, asked, believed. Pure. What they answer comes in as ticks of the executor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from msgspec.structs import replace

from libs.common.decider import Decider, Refused
from libs.common.messages import NodeId
from proto.fence import (
    TRIES_MAX,
    DoubtFence,
    DropFence,
    FenceCommand,
    FenceConfirmed,
    FenceDoubted,
    FenceDropped,
    FenceEvent,
    FenceFailed,
    FenceNode,
    FencePoweredOn,
    FenceRemoved,
    FenceRequested,
    FenceSet,
    FenceTested,
    FenceTestRequested,
    NoteFence,
    NoteTest,
    OrderFence,
    Power,
    PowerOnNode,
    Refusal,
    RemoveFence,
    SetFence,
    TestFence,
    Want,
)
from services.ha.fencing import judge
from services.ha.fencing.checking import wrong
from services.ha.fencing.states import Failed, Fence, Job, Tested

GRANTOR = "grantor"
BACKOFF_US = (1_000_000, 4_000_000)
"""between tries of one attempt"""
COOLING_US = 30_000_000
"""after an attempt came to nothing, the grantor's next one"""
AGAIN_US = 24 * 3600 * 1_000_000
"""a test that says what the last one said is written once in this time"""
SPOKE_US = 5_000_000


def decide(command: FenceCommand, fence: Fence) -> Sequence[FenceEvent]:
    match command:
        case SetFence():
            return _set(command, fence)
        case TestFence():
            _there(command.node, fence)
            return [FenceTestRequested(node=NodeId(command.node), number=fence.number + 1)]
        case RemoveFence():
            _there(command.node, fence)
            return [FenceRemoved(node=NodeId(command.node))]
        case FenceNode():
            return _ask(command, fence, Want.OFF, command.reason)
        case PowerOnNode():
            return _ask(command, fence, Want.ON)
        case OrderFence():
            return _order(command, fence)
        case DropFence():
            if fence.job is None or fence.job.by != GRANTOR:
                return ()
            return [FenceDropped(node=NodeId(command.node), attempt=fence.job.attempt, sentence=command.sentence)]
        case NoteTest():
            return _tested(command, fence)
        case NoteFence():
            return _tried(command, fence)
        case DoubtFence():
            if fence.device is None or fence.doubt:
                return ()
            return [FenceDoubted(node=NodeId(command.node), at_us=command.now_us, sentence=command.sentence)]


def _there(node: str, fence: Fence) -> None:
    if fence.device is None:
        remedy = f"set one first: asvctl ha fence set {node} --kind redfish|ipmi|docker --address …"
        raise Refused(Refusal.NO_DEVICE, f"{node} has no fence device", remedy)


def _set(command: SetFence, fence: Fence) -> Sequence[FenceEvent]:
    node, device = command.node, command.device
    if not command.known:
        raise Refused(Refusal.NODE_UNKNOWN, f"there is no node {node}", "asvctl node ls names those that there are")
    if found := wrong(device, command.driver):
        raise Refused(Refusal.BAD_DEVICE, *found)
    if command.twin:
        at = f"{device.address} {device.system}".rstrip()
        said = f"{at} is the fence device of {command.twin} already; cutting one's power would cut the other's"
        raise Refused(Refusal.SAME_DEVICE, said, f"name the device of {node}, or its system there")
    if fence.job is not None:
        raise Refused(
            Refusal.BUSY, f"the device of {node} is at work (attempt {fence.job.attempt})", "wait until it is done"
        )
    if device == fence.device:
        return ()
    return [FenceSet(node=NodeId(node), device=device)]


def _ask(
    command: FenceNode | OrderFence | PowerOnNode, fence: Fence, want: Want, reason: str = "", by: str = ""
) -> Sequence[FenceEvent]:
    node = command.node
    _there(node, fence)
    if fence.why_not:
        remedy = f"asvctl ha fence test {node}; what it says is believed once a test went well"
        raise Refused(Refusal.NOT_TESTED, f"the device of {node} proves nothing: {fence.why_not}", remedy)
    if fence.job is not None and fence.job.want == want:
        return ()
    if fence.job is not None:
        said = f"the device of {node} is being asked to switch {fence.job.want} (attempt {fence.job.attempt})"
        raise Refused(Refusal.BUSY, said, "wait until it is done")
    requested = FenceRequested(
        node=NodeId(node), attempt=fence.attempt + 1, want=want, at_us=command.now_us, identity=fence.identity,
        apart_ms=judge.APART_MS, by=by, reason=reason,
    )  # fmt: skip
    if isinstance(command, PowerOnNode):
        return [requested]
    apart_ms = judge.apart_ms(command.spoke_us, command.moved_us, command.now_us)
    return [replace(requested, apart_ms=apart_ms, epoch=command.epoch, boot_id=command.boot_id)]


def _order(command: OrderFence, fence: Fence) -> Sequence[FenceEvent]:
    """The grantor's wish; where it cannot be had, it goes by the lease, as without a device."""
    cooling = fence.failed is not None and command.now_us - fence.failed.at_us < COOLING_US
    if not fence.ready or fence.job is not None or cooling:
        return ()
    return _ask(command, fence, Want.OFF, command.sentence, GRANTOR)


def _tested(note: NoteTest, fence: Fence) -> Sequence[FenceEvent]:
    if fence.device is None or note.number != fence.number:
        return ()  # of another device, or before it was asked for anew
    sentence, remedy = _fault(note, fence)
    identity = "" if sentence else note.identity
    before = fence.tested
    asked = fence.noted < fence.number
    changed = before is None or (before.ok, before.sentence) != (not sentence, sentence)
    if not asked and not changed and before is not None and note.now_us - before.at_us < AGAIN_US:
        return ()
    return [
        FenceTested(
            node=NodeId(note.node), number=note.number, ok=not sentence, at_us=note.now_us, power=note.power,
            identity=identity, sentence=sentence, remedy=remedy,
        )
    ]  # fmt: skip


def _fault(note: NoteTest, fence: Fence) -> tuple[str, str]:
    """Why this answer makes no device that could prove; ("", "") where it does."""
    node = note.node
    if note.error:
        return note.error, note.remedy or f"mend it, then asvctl ha fence test {node}"
    if not note.identity:
        return (
            f"the device of {node} names no machine: neither UUID nor serial number",
            "it cannot be told from another's",
        )
    if note.twin:
        said = f"the device of {node} answers for {note.identity}, which is the machine of {note.twin}"
        return said, f"asvctl ha fence set {node} with the device of {node} itself"
    if fence.identity and note.identity != fence.identity:
        said = f"the device of {node} answers for {note.identity}; at its first test it was {fence.identity}"
        return said, f"if the machine was exchanged: asvctl ha fence set {node} … again"
    if note.power == Power.UNKNOWN:
        return f"the device of {node} says neither on nor off", f"asvctl ha fence test {node} once it does"
    if note.power == Power.OFF and 0 <= note.now_us - note.spoke_us < SPOKE_US:
        ago_s = (note.now_us - note.spoke_us) / 1e6
        said = (
            f"the device says that {node} is off, and {node} was heard {ago_s:.1f} s ago: it lies, or it is another's"
        )
        return said, f"asvctl ha fence set {node} with the device of {node} itself"
    return "", ""


def _tried(note: NoteFence, fence: Fence) -> Sequence[FenceEvent]:
    job = fence.job
    if job is None or note.attempt != job.attempt:
        return ()
    node = NodeId(note.node)
    reads, sentence = judge.proves(job, note)
    if sentence:
        tries = job.tries + 1
        last = tries >= TRIES_MAX
        return [
            FenceFailed(
                node=node, attempt=job.attempt, want=job.want, tries=tries, at_us=note.now_us, sentence=sentence, last=last,
                next_at_us=0 if last else note.now_us + BACKOFF_US[tries - 1],
            )
        ]  # fmt: skip
    if job.want == Want.ON:
        return [FencePoweredOn(node=node, attempt=job.attempt, at_us=note.now_us)]
    said = f"ordered off ({note.ordered}), then read as off {len(reads)} times within {reads[-1].after_ms - reads[0].after_ms} ms"
    return [
        FenceConfirmed(
            node=node, attempt=job.attempt, epoch=job.epoch, boot_id=job.boot_id, at_us=note.now_us, ordered=note.ordered,
            identity=job.identity, reads=reads, sentence=f"{said}, the last one {reads[-1].after_ms / 1000:.1f} s after the order",
        )
    ]  # fmt: skip


def evolve(fence: Fence, event: FenceEvent) -> Fence:
    match event:
        case FenceSet():
            number, attempt = fence.number + 1, fence.attempt
            return Fence(node=event.node, device=event.device, number=number, noted=fence.noted, attempt=attempt)
        case FenceTestRequested():
            return replace(fence, number=event.number, doubt="")
        case FenceTested():
            return _evolve_tested(fence, event)
        case FenceRequested():
            job = Job(
                attempt=event.attempt, want=event.want, identity=event.identity, apart_ms=event.apart_ms, at_us=event.at_us,
                due_us=event.at_us, by=event.by, epoch=event.epoch, boot_id=event.boot_id,
            )  # fmt: skip
            return replace(fence, attempt=event.attempt, job=job, off_us=0, failed=None)
        case FenceConfirmed():
            return replace(fence, job=None, off_us=event.at_us, failed=None)
        case FenceFailed():
            failed = Failed(want=event.want, at_us=event.at_us, sentence=event.sentence)
            job_left = (
                None if event.last or fence.job is None else replace(fence.job, tries=event.tries, due_us=event.next_at_us)
            )
            return replace(fence, job=job_left, failed=failed)
        case FencePoweredOn():
            return replace(fence, job=None, off_us=0, failed=None)
        case FenceDropped():
            return replace(fence, job=None)
        case FenceDoubted():
            return replace(fence, doubt=event.sentence, off_us=0)
        case FenceRemoved():
            return Fence(node=event.node, number=fence.number, noted=fence.noted, attempt=fence.attempt)


def _evolve_tested(fence: Fence, event: FenceTested) -> Fence:
    tested = Tested(ok=event.ok, at_us=event.at_us, power=event.power, sentence=event.sentence, remedy=event.remedy)
    off_us = 0 if event.power == Power.ON else fence.off_us
    failed = None if event.ok else fence.failed  # what was wrong then is mended
    return replace(
        fence,
        tested=tested,
        noted=event.number,
        identity=event.identity or fence.identity,
        off_us=off_us,
        failed=failed,
    )


FENCE: Decider[FenceCommand, Fence, FenceEvent] = Decider(
    kind="fence",
    commands=get_args(FenceCommand),
    events=get_args(FenceEvent),
    state=Fence,
    key=lambda command: command.node,
    initial=Fence(),
    decide=decide,
    evolve=evolve,
)
