"""Is what a file holds one log, whole, and can this release read it? Pure.

A digest says that the file is as it was written (aslog.py); this says that what was written is a log.
"""

from __future__ import annotations

from collections.abc import Sequence

from libs.common.messages import Recorded, decode_envelope, decode_meta, decode_reply
from libs.common.protocol import OURS
from libs.past.aslog import Aslog, BadAslog
from libs.past.deciding import Code
from libs.past.source import Decided
from libs.past.written import Unreadable, release


def sound(content: Aslog, codes: Sequence[Code], name: str) -> None:
    """Raises BadAslog where it is not; Unreadable where only a later release reads it."""
    events, commands = content.events, content.commands
    _positions(events, name)
    _streams(events, name)
    _commands(events, commands, name)
    _one_log(content, name)
    if (protocol := content.header.protocol) > OURS.newest:
        raise Unreadable(f"{name} is of a cluster that was finalized at protocol {protocol}", release(protocol))
    _read(events, commands, codes)


def _positions(events: Sequence[Recorded], name: str) -> None:
    at_us = 0
    for n, event in enumerate(events, 1):
        if event.position != n:
            said = f"{name} has a gap: event {n} is missing, {event.position} comes next"
            raise BadAslog(f"{said}; make it by `asvctl log export`, which gives a slice positions of its own")
        if event.at_us < at_us:
            raise BadAslog(f"{name} is no one log: event {n} was written before the one that it follows")
        at_us = event.at_us


def _streams(events: Sequence[Recorded], name: str) -> None:
    versions: dict[str, int] = {}
    for event in events:
        version = versions.get(event.stream, 0) + 1
        if event.version != version:
            said = f"event {event.position} is version {event.version} of {event.stream}, and comes after version {version - 1}"
            raise BadAslog(f"{name} is no one log: {said}; it has a gap, or is two logs in one")
        versions[event.stream] = version


def _commands(events: Sequence[Recorded], commands: Sequence[Decided], name: str) -> None:
    ids: set[str] = set()
    for one in commands:
        if one.id in ids:
            raise BadAslog(f"{name} is no one log: it has two commands {one.id}")
        ids.add(one.id)
        if one.position and not 0 < one.position <= len(events):
            raise BadAslog(f"{name} does not hold event {one.position}, which command {one.id} wrote")
        if one.position:
            event = events[one.position - 1]
            wrote, asked = decode_meta(event.meta).command, decode_envelope(one.payload).id
            if (event.stream, wrote) != (one.stream, asked):
                said = f"event {event.position} is of command {wrote} on {event.stream}, not of {asked} on {one.stream}"
                raise BadAslog(f"{name} is no one log: {said}")


def _one_log(content: Aslog, name: str) -> None:
    """Causes are positions of this log, of its incarnation or an earlier one."""
    for event in content.events:
        incarnation, _, position = decode_meta(event.meta).causation.partition("-")
        if not incarnation:
            continue
        if not (incarnation.isdigit() and position.isdigit()):
            raise BadAslog(f"{name}: the cause of event {event.position} is no position")
        now = content.header.incarnation
        if int(incarnation) > now or (int(incarnation) == now and int(position) >= event.position):
            said = f"event {event.position} came of {incarnation}-{position}, which is not before it in this log"
            raise BadAslog(f"{name} is no one log: {said} (incarnation {now})")


def _read(events: Sequence[Recorded], commands: Sequence[Decided], codes: Sequence[Code]) -> None:
    owners: dict[str, Code | None] = {}

    def owner(stream: str) -> Code | None:
        if stream not in owners:
            owners[stream] = next((code for code in codes if code.slot(stream) is not None), None)
        return owners[stream]

    for event in events:
        for code in codes:
            code.hear(event)
        if (code_of := owner(event.stream)) is not None:
            code_of.event(event)
    for one in commands:
        decode_reply(one.outcome)
        if (code_of := owner(one.stream)) is not None:
            code_of.command(one)
