"""`python -m proto.asyncapi` prints the AsyncAPI 3 document of the bus; proto/asyncapi.json is it, never edited by hand."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from libs.common.messages import Reply
from proto.families import FAMILIES, Family

type Json = dict[str, Any]

PARAMETERS = {
    "stream": "the stream's name, `<kind>-<object>`; it never holds a dot",
    "node": "the node's name, a DNS label",
    "type": "the event's wire name",
}
ENVELOPE = "msgpack of libs.common.messages.Envelope; `data` is the message"
RECORDED = "msgpack of libs.common.messages.Delivered; JetStream stream EVT"


def document(families: Mapping[str, Family]) -> Json:
    """The whole document: channels (subjects), operations (who hears, who sends), messages and their schemas."""
    kinds = [kind for family in families.values() for kind in _kinds(family)] + [Reply]
    answers = {answer for family in families.values() for answer in family.answers.values()} | {Reply}
    channels: Json = {}
    operations: Json = {}
    for family in families.values():
        for name, channel, action, asked in _channels(family):
            channels[name] = channel
            operations[name] = {"action": action, "channel": {"$ref": f"#/channels/{name}"}} | _reply(family, asked)
    channels["replies"] = _channel(None, sorted(answers, key=_name), "the asker's own inbox")
    _, schemas = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "aSV bus",
            "version": "1",
            "description": "Subjects and messages on NATS. Payloads are msgpack.",
        },
        "defaultContentType": "application/msgpack",
        "channels": channels,
        "operations": operations,
        "components": {"messages": {_name(kind): _message(kind) for kind in kinds}, "schemas": schemas},
    }


def _kinds(family: Family) -> list[type]:
    return list(dict.fromkeys((*family.messages, *family.answers.values(), *family.telemetry)))


def _channels(family: Family) -> Iterator[tuple[str, Json, str, tuple[type, ...]]]:
    """(name, channel, what the family's service does with it, what is asked there) for each subject of the family."""
    service = family.service
    if asked := family.commands:
        yield f"{service}.commands", _channel(f"cmd.{service}.{{stream}}", asked, ENVELOPE), "receive", asked
    if asked := family.facts:
        yield f"{service}.facts", _channel(f"fact.{{node}}.{service}", asked, ENVELOPE), "receive", asked
    for stream in family.streams:
        address = f"evt.{stream.kind}.{{stream}}.{{type}}"
        yield f"{service}.{stream.kind}.events", _channel(address, stream.events, RECORDED), "send", ()
    if asked := family.orders:
        yield f"{service}.orders", _channel("order.{node}", asked, "repeated until acknowledged"), "receive", asked
    for ask in family.asks:
        what = _name(ask).removeprefix("Ask").lower()
        yield f"{service}.ask.{what}", _channel(f"ask.{{node}}.{what}", (ask,), "never recorded"), "receive", (ask,)
    for kind in family.telemetry:
        what = _name(kind).lower()
        yield f"{service}.{what}", _channel(f"tel.{{node}}.{what}", (kind,), "core NATS, never stored"), "send", ()


def _channel(address: str | None, kinds: Iterable[type], description: str) -> Json:
    parameters = {name: {"description": text} for name, text in PARAMETERS.items() if f"{{{name}}}" in (address or "")}
    return {
        "address": address,
        "description": description,
        "messages": {_name(kind): _in_components(kind) for kind in kinds},
    } | ({"parameters": parameters} if parameters else {})


def _reply(family: Family, asked: Iterable[type]) -> Json:
    """Where answers go and which they are; nothing for what is not a request."""
    answers = sorted({_name(family.answers.get(kind, Reply)) for kind in asked})
    if not answers:
        return {}
    refs = [{"$ref": f"#/channels/replies/messages/{answer}"} for answer in answers]
    return {"reply": {"channel": {"$ref": "#/channels/replies"}, "messages": refs}}


def _in_components(kind: type) -> Json:
    return {"$ref": f"#/components/messages/{_name(kind)}"}


def _message(kind: type) -> Json:
    text = " ".join((kind.__doc__ or "").split())
    wire = getattr(getattr(kind, "__struct_config__", None), "tag", None)
    named = {"summary": text} if text else {}
    version = {"x-version": getattr(kind, "VERSION", 1)}
    return {"name": wire or _name(kind), "payload": {"$ref": f"#/components/schemas/{_name(kind)}"}} | named | version


def _name(kind: type) -> str:
    return kind.__name__


def stale(path: Path, families: Mapping[str, Family]) -> list[str]:
    """A sentence when the document beside the code is not what the code says."""
    kept = msgspec.json.decode(path.read_bytes()) if path.exists() else None
    if kept == msgspec.json.decode(msgspec.json.encode(document(families))):
        return []
    return [f"{path.name}: not what the messages say today; run `python -m proto.check write`"]


if __name__ == "__main__":
    data = msgspec.json.encode(document(FAMILIES), order="deterministic")
    sys.stdout.buffer.write(msgspec.json.format(data, indent=2) + b"\n")
