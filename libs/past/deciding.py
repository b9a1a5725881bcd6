"""One recorded command decided by today's code on a given state. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any

import msgspec

from libs.common.decider import Decider, Refused
from libs.common.host.core import registries_of
from libs.common.host.service import Service, no_weigh
from libs.common.host.versions import FINALIZED, Writer
from libs.common.messages import Command, Event, Recorded, Reply, decode_reply
from libs.common.registry import Downcast, UnknownType, Upcast
from libs.past.source import Decided
from libs.past.written import Reader, Unreadable, release


class _Envelope(msgspec.Struct, frozen=True, gc=False):
    """What a decision needs of an Envelope."""

    id: str
    data: msgspec.Raw
    correlation: str = ""


class Slot(msgspec.Struct, gc=False):
    """A stream as far as it is folded. eventless: commands that wrote nothing, and wait for their version."""

    name: str
    decider: Decider[Any, Any, Any]
    state: Any
    version: int = 0
    eventless: tuple[Decided, ...] = ()


class Produced(msgspec.Struct, frozen=True, gc=False):
    """What today's code makes of a command. events: each as a reader will have it, its version and its bytes; bug: what was raised
    in place of both."""

    events: list[tuple[Event, int, bytes]]
    reply: Reply
    bug: str = ""


def _where(decided: Decided) -> str:
    return f"command {decided.id} on {decided.stream} (event {decided.position or 'none'})"


_envelope = msgspec.msgpack.Decoder(_Envelope).decode


def _weighing(services: tuple[Service, ...]) -> Callable[[Any], Any]:
    """Each service's `weigh` leaves what is another's as it is."""
    weighs = [service.weigh for service in services if service.weigh is not no_weigh]
    if len(weighs) > 1:
        return lambda command: reduce(lambda weighed, weigh: weigh(weighed), weighs, command)
    return weighs[0] if weighs else no_weigh


class Code:
    """A service's code of today, or that of several as if they were one, with which commands and events are read, decided, folded
    and written."""

    def __init__(
        self, service: Service | tuple[Service, ...], upcasts: Mapping[tuple[str, int], Upcast] | None = None,
        downcasts: Mapping[tuple[str, int], Downcast] | None = None,
    ) -> None:  # fmt: skip
        services = service if isinstance(service, tuple) else (service,)
        self.name = ", ".join(one.name for one in services)
        self.kinds = {decider.kind: decider for one in services for decider in one.deciders}
        self._commands, events = registries_of(services, dict(upcasts or {}))
        self.tags = {kind: name for name, kind in events.classes.items()}
        self.reader = Reader(events, downcasts or {})
        self._writer = Writer(events, downcasts)
        self.weigh = _weighing(services)

    def slot(self, stream: str) -> Slot | None:
        """Where a stream begins; None: it is another service's."""
        decider = self.kinds.get(stream.partition("-")[0])
        return None if decider is None else Slot(stream, decider, decider.initial)

    def hear(self, recorded: Recorded) -> None:
        """Every event, others' too: one of them says which versions are written from then on."""
        if recorded.type == FINALIZED:
            self._writer.hear(recorded)

    def event(self, recorded: Recorded) -> Any:
        """As today's code reads it. Raises Unreadable."""
        return self.reader.event(recorded, self._writer.protocol)

    def fold(self, slot: Slot, recorded: Recorded, event: Any) -> None:
        """Raises ValueError where it is not the stream's next event."""
        if recorded.version != slot.version + 1:
            raise ValueError(
                f"event {recorded.position} is version {recorded.version} of {slot.name}, and comes after version {slot.version}: "
                "the log has a gap, or is two logs in one"
            )
        slot.state = slot.decider.evolve(slot.state, event)
        slot.version += 1

    def command(self, decided: Decided) -> tuple[Command, str]:
        """(the command, its task). Raises Unreadable."""
        try:
            envelope = _envelope(decided.payload)
            return self._commands.decode(envelope.data), envelope.correlation or envelope.id
        except UnknownType as unknown:
            said = f"{_where(decided)} is `{unknown.name}`, which {self.name} of this release does not know"
            raise Unreadable(said, release(self._writer.protocol)) from None
        except msgspec.MsgspecError as bad:
            said = f"{_where(decided)} cannot be read by {self.name} of this release: {bad}"
            raise Unreadable(said, "its message has changed (proto), or the log is damaged (`asvctl log verify`)") from bad

    def answer(self, decided: Decided) -> Reply:
        """As it was recorded. Raises Unreadable."""
        try:
            return decode_reply(decided.outcome)
        except msgspec.MsgspecError as bad:
            where = f"command {decided.id} on {decided.stream} (event {decided.position or 'none'})"
            raise Unreadable(f"the answer to {where} cannot be read: {bad}", "the log is damaged (`asvctl log verify`)") from bad

    def decide(self, command: Command, task: str, slot: Slot) -> Produced:
        """As the host decides (libs/common/host/jobs.py), on what today's policies make of the recorded evidence."""
        stream, version = slot.name, slot.version
        try:
            produced = [self._writer.write(event) for event in slot.decider.decide(self.weigh(command), slot.state)]
        except Refused as no:
            return Produced(
                [], Reply(
                    status="refused", reason=str(no.reason), sentence=no.sentence, remedy=no.remedy, stream=stream, version=version,
                ),
            )  # fmt: skip
        except Exception as bug:  # today's code is what is looked at: what it raises is what it makes of the command
            return Produced([], Reply(status="unavailable", reason="INTERNAL", stream=stream, version=version), repr(bug))
        return Produced(produced, Reply(status="accepted", stream=stream, version=version + len(produced), task=task))
