"""What has to be true before a message is accepted, and what comes of it: a table for each service, `tests/contract/<service>/`.

    wishes.json     a Setting for each command and fact, or several: a stream's events before it, the message, the events that come
    followed.json   by followed event: the own events that its sample alone leads to (mostly none: it is only folded)

Bodies are as they lie in a log, of the version that is named: those of an old version are read by its upcasts, as in a log.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from libs.common.log import CommandRow, Group, NewEvent, Unit
from libs.common.messages import Message, Meta, encode, tag_of
from proto.families import FAMILIES, REGISTRY

HERE = Path(__file__).parents[1]


class Given(msgspec.Struct, frozen=True, array_like=True):
    """An event in the log before. v: the version of the event that `body` is of."""

    stream: str
    type: str
    v: int
    body: dict[str, Any]


class Heard(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """Telemetry. after_s: by the service's clock, since what came before it."""

    subject: str
    body: Any
    after_s: float = 0.0


class Setting(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """send: the message, with its `type`; heard: telemetry that comes before it. then: types of the events that
    come of it, in order; refused: the reason, where it is refused. incarnation: of the log.
    apart: it has a log to itself, as what others do would change its answer."""

    send: dict[str, Any]
    given: tuple[Given, ...] = ()
    heard: tuple[Heard, ...] = ()
    then: tuple[str, ...] = ()
    refused: str = ""
    incarnation: int = 1
    apart: bool = False

    @property
    def wish(self) -> str:
        return str(self.send["type"])

    @property
    def name(self) -> str:
        return f"{self.wish}-{self.refused or '-'.join(self.then) or 'nothing'}"

    def message(self) -> Any:
        """Raises msgspec.ValidationError where today's class does not take it."""
        return REGISTRY.decode(encode(self.send))


def settings(service: str) -> tuple[Setting, ...]:
    """All of one service. Raises msgspec.ValidationError."""
    return msgspec.json.decode((HERE / service / "wishes.json").read_bytes(), type=tuple[Setting, ...])


def followed(service: str) -> dict[str, tuple[str, ...]]:
    return msgspec.json.decode((HERE / service / "followed.json").read_bytes(), type=dict[str, tuple[str, ...]])


def sample(kind: type[Message], v: int) -> dict[str, Any]:
    """The frozen sample of an event's version, without its type."""
    service = next(name for name, family in FAMILIES.items() if kind in family.events)
    path = Path(__file__).parents[3] / "proto/samples" / service / f"{tag_of(kind)}.v{v}.json"
    body: dict[str, Any] = msgspec.json.decode(path.read_bytes())
    return body


def group(given: tuple[Given, ...], consumer: str = "") -> Group:
    """What writes them into an empty log; with a consumer, it has come to the end of them."""
    versions: dict[str, int] = {}
    units = []
    for n, event in enumerate(given, 1):
        version = versions.get(event.stream, 0)
        versions[event.stream] = version + 1
        id = f"given-{n}"
        meta = encode(Meta(id, "", id, "user:given", 0))
        news = (NewEvent(event.type, event.v, encode({"type": event.type} | event.body), meta),)
        units.append(Unit(event.stream, version, news, CommandRow(id, b"\x80", b"\x80"), n if consumer else 0))
    return Group(tuple(units), consumer, len(units))


def written(chosen: tuple[Setting, ...]) -> bytes:
    """The table as it is kept: an event, a message and a heard one to a line."""
    return b"[\n" + b",\n".join(_lines(setting) for setting in chosen) + b"\n]\n"


def _lines(setting: Setting) -> bytes:
    line = msgspec.json.encode
    out = [b' {"send": ' + line(setting.send)]
    heard = [(one.subject, one.body, *((one.after_s,) if one.after_s else ())) for one in setting.heard]
    for name, many in (("given", setting.given), ("heard", heard)):
        if many:
            out.append(f'  "{name}": [\n   '.encode() + b",\n   ".join(line(one) for one in many) + b"]")
    if setting.then:
        out.append(b'  "then": ' + line(setting.then))
    if setting.refused:
        out.append(b'  "refused": ' + line(setting.refused))
    if setting.apart:
        out.append(b'  "apart": true')
    if setting.incarnation > 1:
        out.append(b'  "incarnation": ' + line(setting.incarnation))
    return b",\n".join(out) + b"}"
