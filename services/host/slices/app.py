"""One run of it: reads a log, cuts a slice, gives it other names, proves it, writes the file; or takes a file in."""

from __future__ import annotations

import asyncio
import json
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec.structs import replace

from libs.common.log import LogError, Unavailable
from libs.common.log.refill import NotEmpty, refill
from libs.common.log.rows import Row
from libs.past.aslog import Aslog, AslogPast, BadAslog, write
from libs.past.aslog import read as read_file
from libs.past.replaying import BadRange, redecide
from libs.past.slices.anonymize import Anonymizer, Unlike
from libs.past.slices.cut import TooMuch, cut
from libs.past.slices.leaks import leaks
from libs.past.slices.old import names_for
from libs.past.slices.select import NothingThere, Wanted, select
from libs.past.slices.sound import sound
from libs.past.source import Past
from libs.past.where import DSN, opened
from libs.past.written import Unreadable
from proto.families import REGISTRY
from proto.services import SERVICES
from services.host.replay.codes import code, codes
from services.host.slices.words import AWAY, DONE, NOT_EMPTY, UNUSABLE, USAGE, Asked, Moment, read

KEY_BYTES = 32


class Wrong(Exception):
    """What was asked for cannot be; the sentence says what would be right."""


class Made(msgspec.Struct, kw_only=True):
    """What is told of a slice."""

    file: str
    events: int
    commands: int
    streams: int
    since: int
    first: int
    last: int
    anonymized: bool
    decided: dict[str, int]
    """commands that were decided again from the file, by service"""
    differs: dict[str, str]
    """by service, where today's code decides otherwise; that is so in the log itself"""
    names: int = 0


async def export(asked: Asked) -> Made:
    """Raises Wrong, NothingThere, TooMuch, Unlike, Unreadable, LogError."""
    if asked.file.exists():
        raise Wrong(f"{asked.file} is there already: name another file")
    past = await opened(asked.log)
    try:
        chosen = await select(past, await _window(past, asked))
        content = await cut(past, chosen, "" if asked.anonymize else asked.note)
    finally:
        await past.close()
    table: dict[str, str] = {}
    if asked.anonymize:
        content, table = anonymized(content, asked.key.read_bytes() if asked.key else secrets.token_bytes(KEY_BYTES))
        content = replace(content, header=replace(content.header, note=asked.note))
    decided, differs = await proven(content)
    if asked.names is not None:
        _private(asked.names, table)
    write(asked.file, content)
    header = content.header
    return Made(
        file=str(asked.file), events=header.events, commands=header.commands, since=header.since, first=header.was_first,
        last=header.was_last, streams=len({event.stream for event in content.events}), anonymized=header.anonymized,
        decided=decided, differs=differs, names=len(table),
    )  # fmt: skip


def anonymized(content: Aslog, key: bytes) -> tuple[Aslog, dict[str, str]]:
    """With the new names by the old ones. Raises Unlike (also where an old name is left), Unreadable."""
    names = names_for(content, REGISTRY.classes, key)
    new = Anonymizer(codes(), REGISTRY.classes, names).run(content)
    table = names.table()
    if left := leaks(new, table, REGISTRY.classes):
        raise Unlike(f"{len(left)} names would be left in it, among them {', '.join(left[:5])}")
    return new, table


async def proven(content: Aslog) -> tuple[dict[str, int], dict[str, str]]:
    """(commands decided again by service, where it differs): of the very content of the file."""
    decided, differs = {}, {}
    for name in SERVICES:
        found = await redecide(AslogPast(content), code(name))
        decided[name] = found.counts.decided + found.counts.eventless
        if found.difference is not None:
            differs[name] = f"event {found.difference.position}, command {found.difference.command.type}"
    return decided, differs


async def take_in(asked: Asked) -> Made:
    """Raises Wrong, BadAslog, Unreadable, NotEmpty, LogError. Nothing is touched before the file is known to be sound."""
    if not asked.log.startswith(DSN):
        raise Wrong("a log is taken into a database: say postgresql://OWNER@HOST/DATABASE by --log")
    try:
        content = read_file(asked.file)
    except OSError as error:
        raise Wrong(f"{asked.file} cannot be read: {error.strerror}") from error
    sound(content, codes(), str(asked.file))
    rows = [Row(*msgspec.structs.astuple(one)) for one in content.commands]
    await refill(asked.log, content.events, rows, content.header.incarnation, SERVICES)
    header = content.header
    return Made(
        file=str(asked.file), events=header.events, commands=header.commands, since=header.since, first=header.was_first,
        last=header.was_last, streams=len({event.stream for event in content.events}), anonymized=header.anonymized,
        decided={}, differs={},
    )  # fmt: skip


async def _window(past: Past, asked: Asked) -> Wanted:
    """Raises NothingThere."""
    vms, nodes, head = tuple(asked.vms), tuple(asked.nodes), (await past.head()).position
    if asked.around != Moment():
        at = await _position(past, asked.around)
        if not 0 < at <= head:
            raise NothingThere(f"event {at} is not in the log, whose last is {head}" if at else "the log begins later than that")
        return Wanted(vms=vms, nodes=nodes, first=max(at - asked.before, 1), last=at + asked.after)
    first, last = await _position(past, asked.first), await _position(past, asked.last)
    if max(first, last) > head:
        raise NothingThere(f"event {max(first, last)} is not in the log, whose last is {head}")
    if asked.last != Moment() and not last:
        raise NothingThere("the log begins later than that")
    return Wanted(vms=vms, nodes=nodes, first=first + bool(asked.first.at_us), last=last)


async def _position(past: Past, moment: Moment) -> int:
    """Of a time: the last event before it, or at it where that is an end."""
    return await past.position_at(moment.at_us) if moment.at_us else moment.position


def _private(path: Path, table: dict[str, str]) -> None:
    """For who exported it alone."""
    path.touch(mode=0o600)
    path.write_text(json.dumps(table, indent=1, sort_keys=True) + "\n")


def told(asked: Asked, made: Made) -> str:
    if asked.json:
        return msgspec.json.encode(made).decode()
    what = f"{made.events} events of {made.streams} streams, {made.commands} commands"
    if asked.what == "import":
        return f"taken in: {what}\nlook at it: asvctl replay --log {asked.log} --step"
    lines = [f"{made.file}: {what}", f"what is asked about begins at event {made.since} (was {made.first} to {made.last})"]
    lines.append(f"decided again from it: {', '.join(f'{name} {n}' for name, n in made.decided.items())}")
    for name, where in made.differs.items():
        lines.append(f"today's code of {name} decides otherwise than was recorded, first at {where}")
    if made.anonymized:
        lines.append(f"{made.names} names are others; none of the old ones is in it")
    return "\n".join(lines)


def main(words: Sequence[str]) -> int:
    """The exit code."""
    asked = read(words)
    try:
        made = asyncio.run(export(asked) if asked.what == "export" else take_in(asked))
    except (Wrong, NothingThere, TooMuch, BadRange) as error:
        return _ends(asked, USAGE, str(error))
    except NotEmpty as error:
        return _ends(asked, NOT_EMPTY, str(error))
    except (BadAslog, Unreadable, Unlike) as error:
        return _ends(asked, UNUSABLE, str(error))
    except Unavailable as error:
        return _ends(asked, AWAY, str(error))
    except (LogError, ValueError, OSError) as error:
        return _ends(asked, UNUSABLE, str(error))
    except KeyboardInterrupt:
        return 130
    print(told(asked, made))
    return DONE


def _ends(asked: Asked, code: int, sentence: str) -> int:
    print(f"asvctl log {asked.what}: {sentence}", file=sys.stderr)
    return code
