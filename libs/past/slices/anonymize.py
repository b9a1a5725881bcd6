"""A log under other names that decides as it did. Pure.

    commands, renamed ──decided by today's code, on states of renamed events──▶ events and answers, under the new names
                                          │
         what the code made of names (files, serials, MACs, sentences) is what it makes of the new ones; from there on it is known

So what is written decides itself again by construction; what is checked is that it is the same story: type by type, value by value,
name by name. A command that today's code does not decide as it was recorded is renamed only, and counted; one that it decides
otherwise merely because names are others is an error: then nothing is written.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from typing import Any

import msgspec
from msgspec.structs import replace

from libs.common.messages import Message, Recorded, decode_envelope, decode_meta, decode_reply, encode
from libs.past.aslog import Aslog
from libs.past.deciding import Code, Produced, Slot
from libs.past.slices.leaves import Leaf, mapped
from libs.past.slices.names import Names
from libs.past.slices.old import ids_of
from libs.past.slices.select import SINGLE
from libs.past.source import Decided


class Unlike(Exception):
    """Under other names something was decided otherwise. The sentence says where."""


class Counts(msgspec.Struct):
    """decided: commands that were decided again under the new names; renamed: such as today's code does not decide as was recorded;
    unasked: events without a command."""

    decided: int = 0
    renamed: int = 0
    unasked: int = 0


class _Pair(msgspec.Struct):
    """A stream under its old name and its new one."""

    code: Code
    was: Slot
    now: Slot


class Anonymizer:
    """codes: of all services. classes: every message by its wire name."""

    def __init__(self, codes: Sequence[Code], classes: Mapping[str, type[Message]], names: Names) -> None:
        self._codes, self._classes, self.names = codes, classes, names
        self.counts = Counts()
        self._pairs: dict[str, _Pair | None] = {}
        self._answers: dict[tuple[str, int], list[Decided]] = {}
        self._out: list[Decided] = []

    def run(self, content: Aslog) -> Aslog:
        """Raises Unlike, Unreadable."""
        asked = {one.position: one for one in content.commands if one.position}
        for one in content.commands:
            if not one.position:
                self._answers.setdefault((one.stream, decode_reply(one.outcome).version), []).append(one)
        events: list[Recorded] = []
        at, whole = 0, content.events
        while at < len(whole):
            event = whole[at]
            for code in self._codes:
                code.hear(event)
            pair = self._pair(event.stream)
            self._eventless(pair, event.stream, event.version - 1)
            count = _count(whole, at) if event.position in asked else 1
            mine = whole[at : at + count]
            events += self._step(pair, mine, asked.get(event.position))
            at += count
        for stream, version in list(self._answers):
            self._eventless(self._pair(stream), stream, version)
        header = replace(content.header, anonymized=True, note="")
        return Aslog(header, tuple(events), tuple(_ordered(self._out)))

    # --- one command, or an event without one -----------------------------------------------------------------------

    def _step(self, pair: _Pair | None, mine: Sequence[Recorded], asked: Decided | None) -> list[Recorded]:
        produced = None
        command = self._command(asked) if asked is not None else None
        if asked is not None and command is not None and pair is not None and self._as_recorded(pair, asked, mine):
            produced = self._decide(pair, command)
            self._alike(pair, asked, mine, produced)
        self.counts.unasked += asked is None
        if command is not None:
            reply = encode(produced.reply) if produced is not None else self._reply(decode_reply(command.outcome))
            self._out.append(replace(command, outcome=reply))
        made = produced.events if produced is not None else [None] * len(mine)
        out = [self._event(one, new[2] if new is not None else None) for one, new in zip(mine, made, strict=True)]
        if pair is not None:
            for one, new in zip(mine, out, strict=True):
                pair.code.fold(pair.was, one, pair.code.event(one))
                pair.code.fold(pair.now, new, pair.code.event(new))
        return out

    def _eventless(self, pair: _Pair | None, stream: str, version: int) -> None:
        """Commands that wrote nothing, on the version that they were decided on."""
        for asked in self._answers.pop((stream, version), ()):
            command, reply = self._command(asked), None
            if pair is not None and pair.was.version == version and self._as_recorded(pair, asked, ()):
                produced = self._decide(pair, command)
                self._alike(pair, asked, (), produced)
                reply = encode(produced.reply)
            self._out.append(replace(command, outcome=reply or self._reply(decode_reply(asked.outcome))))

    def _as_recorded(self, pair: _Pair, asked: Decided, mine: Sequence[Recorded]) -> bool:
        """Does today's code decide it as it was, under the old names?"""
        command, task = pair.code.command(asked)
        code = pair.code
        produced = code.decide(command, task, pair.was)
        same = encode(produced.reply) == asked.outcome and len(produced.events) == len(mine) and all(
            one.v == v and code.reader.same(one, code.event(one), event, v, data)
            for one, (event, v, data) in zip(mine, produced.events, strict=True)
        )  # fmt: skip
        self.counts.decided += same
        self.counts.renamed += not same
        return same

    def _decide(self, pair: _Pair, command: Decided) -> Produced:
        wanted, task = pair.code.command(command)
        return pair.code.decide(wanted, task, pair.now)

    def _alike(self, pair: _Pair, asked: Decided, mine: Sequence[Recorded], produced: Produced) -> None:
        """Is it the same story? What the code made of names is learnt."""
        where = f"{decode_envelope(asked.payload).id} on {asked.stream} (event {asked.position or 'none'})"
        was = decode_reply(asked.outcome)
        now = produced.reply
        if produced.bug or (was.status, was.reason, was.version) != (now.status, now.reason, now.version):
            raise Unlike(f"{where}: was {was.status} {was.reason}, under other names {now.status} {now.reason} {produced.bug}")
        if len(mine) != len(produced.events):
            raise Unlike(f"{where}: wrote {len(mine)} events, under other names {len(produced.events)}")
        for text, other in ((was.sentence, now.sentence), (was.remedy, now.remedy)):
            self._learn(Leaf.TEXT, text, other, where)
        for one, (event, _, _) in zip(mine, produced.events, strict=True):
            if one.type != pair.code.tags[type(event)]:
                raise Unlike(f"{where}: {one.type} was written, under other names {pair.code.tags[type(event)]}")
            self._alike_event(type(event), whole(pair.code.event(one)), whole(event), f"{where}, {one.type}")

    def _alike_event(self, kind: type[Message], body: Any, made: Any, where: str) -> None:
        leaves: list[tuple[Leaf, str]] = []
        others: list[str] = []

        def note(leaf: Leaf, text: str) -> str:
            leaves.append((leaf, text))
            return text

        def note_other(leaf: Leaf, text: str) -> str:
            others.append(text)
            return text

        mapped(kind, body, note)
        mapped(kind, made, note_other)
        if len(leaves) != len(others):
            raise Unlike(f"{where}: {len(leaves)} words were in it, under other names {len(others)}")
        for (leaf, text), other in zip(leaves, others, strict=True):
            self._learn(leaf, text, other, where)
        if mapped(kind, body, self._leaf) != made:
            raise Unlike(f"{where}: it says something else under other names")

    def _learn(self, leaf: Leaf, was: str, now: str, where: str) -> None:
        if not was or self._leaf(leaf, was) == now:
            return
        if leaf is Leaf.WORD or (leaf is Leaf.NAME and was in self.names.used and self.names.pinned(was)):
            raise Unlike(f"{where}: `{was}` should be `{self._leaf(leaf, was)}` and is `{now}`")
        self.names.learned[was] = now

    # --- names ------------------------------------------------------------------------------------------------------

    def _pair(self, stream: str) -> _Pair | None:
        if stream not in self._pairs:
            found = ((code, code.slot(stream), code.slot(self._stream(stream))) for code in self._codes)
            self._pairs[stream] = next((_Pair(c, a, b) for c, a, b in found if a is not None and b is not None), None)
        return self._pairs[stream]

    def _leaf(self, leaf: Leaf, text: str) -> str:
        if leaf is Leaf.WORD:
            return text
        return self.names.text(text) if leaf is Leaf.TEXT else self.names.rename(text)

    def _used(self, leaf: Leaf, text: str) -> str:
        if leaf is Leaf.NAME:
            self.names.used.add(text)
        return self._leaf(leaf, text)

    def _stream(self, stream: str) -> str:
        kind, _, key = stream.partition("-")
        return stream if stream in SINGLE else f"{kind}-{self.names.rename(key)}"

    def _event(self, event: Recorded, data: bytes | None) -> Recorded:
        """data: what was decided anew; None: the recorded one is renamed."""
        if data is None:
            data = encode(mapped(self._classes.get(event.type), msgspec.msgpack.decode(event.data), self._used))
        meta = decode_meta(event.meta)
        told = replace(
            meta, command=self._id(meta.command), correlation=self._id(meta.correlation), actor=self._actor(meta.actor), trace="",
            project=self.names.rename(meta.project), owner=self.names.rename(meta.owner),
        )  # fmt: skip
        stream = self._stream(event.stream)
        return Recorded(event.position, stream, event.version, event.type, event.v, event.at_us, data, encode(told))

    def _command(self, one: Decided) -> Decided:
        envelope = decode_envelope(one.payload)
        body = msgspec.msgpack.decode(envelope.data)
        data = encode(mapped(self._classes.get(body["type"]), body, self._used))
        told = replace(
            envelope, id=self._id(envelope.id), data=msgspec.Raw(data), actor=self._actor(envelope.actor),
            project=self.names.rename(envelope.project), owner=self.names.rename(envelope.owner),
            correlation=self._id(envelope.correlation), trace="", origin="",
        )  # fmt: skip
        id = self._id(one.id)
        if one.id.startswith("fact:"):
            _, node, rest = one.id.split(":", 2)
            id = f"fact:{self.names.rename(node)}:{self._id(rest)}"
        return Decided(one.position, one.at_us, id, self._stream(one.stream), encode(told), one.outcome)

    def _reply(self, reply: Any) -> bytes:
        return encode(
            replace(
                reply, sentence=reply.sentence and self.names.text(reply.sentence), stream=self._stream(reply.stream),
                remedy=reply.remedy and self.names.text(reply.remedy), task=self._id(reply.task),
            )
        )  # fmt: skip

    def _actor(self, actor: str) -> str:
        kind, colon, name = actor.partition(":")
        return actor if kind == "service" else f"{kind}{colon}{self.names.rename(name)}"

    def _id(self, id: str) -> str:
        return self.names.rename(id) if ids_of(id) else id


def whole(value: Any) -> Any:
    """As plain values, with every field: what is left out of bytes as it is as always depends on where it came from."""
    if isinstance(value, msgspec.Struct):
        config = value.__struct_config__
        tag = {config.tag_field: config.tag} if config.tag_field else {}
        return tag | {name: whole(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, dict):
        return {whole(key): whole(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [whole(item) for item in value]
    return value.value if isinstance(value, Enum) else value


def _count(events: Sequence[Recorded], at: int) -> int:
    """How many its command wrote."""
    command, stream = decode_meta(events[at].meta).command, events[at].stream
    end = at + 1
    while end < len(events) and events[end].stream == stream and decode_meta(events[end].meta).command == command:
        end += 1
    return end - at


def _ordered(commands: list[Decided]) -> Iterator[Decided]:
    yield from sorted(commands, key=lambda one: (one.position == 0, one.position, one.at_us, one.id))
