"""Every command and event of every service under other names: the contracts' settings as little logs, decided alike."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest

from libs.common.host.core import Host
from libs.common.messages import Envelope, Fact, Meta, Recorded, encode
from libs.past.aslog import Aslog, aslog
from libs.past.deciding import Code, Slot
from libs.past.slices.anonymize import Anonymizer, Unlike
from libs.past.slices.leaks import leaks
from libs.past.slices.old import names_for
from libs.past.source import Decided
from proto.families import REGISTRY
from proto.services import SERVICES
from proto.upcasts import UPCASTS
from services.host.known import service
from services.host.replay.codes import code, codes
from services.host.slices.app import proven
from tests.contract.messages.settings import Given, Setting, settings

KEY = b"k" * 32
NOW_US = 1_800_000_000_000_000


def recorded(given: tuple[Given, ...]) -> Iterator[Recorded]:
    versions: dict[str, int] = {}
    for n, event in enumerate(given, 1):
        versions[event.stream] = versions.get(event.stream, 0) + 1
        meta = encode(Meta(f"given-{n}", "", f"given-{n}", "user:ops", 0))
        data = encode({"type": event.type} | event.body)
        yield Recorded(n, event.stream, versions[event.stream], event.type, event.v, NOW_US, data, meta)


def log_of(name: str, setting: Setting) -> Aslog:
    """What was given, and the command, enriched by the service's own views, with what today's code makes of it."""
    kind, own = service(name), code(name)
    events = list(recorded(setting.given))
    host = Host(kind, dict(UPCASTS))
    host.fold(events, len(events))
    for one in setting.heard:
        host.on_telemetry(one.subject, encode(one.body), NOW_US)
    command = kind.enrich(setting.message(), host.views, NOW_US)
    decider = next(decider for decider in kind.deciders if type(command) in decider.commands)
    stream = decider.stream(command)
    payload = encode(Envelope(id="the-one", data=msgspec.Raw(encode(command)), actor="user:ops", origin="192.0.2.7 token:secret"))
    slot = folded(own, stream, events)
    produced = own.decide(command, "the-one", slot)
    assert not produced.bug, produced.bug
    meta = encode(Meta("the-one", "", "the-one", "user:ops", 0))
    for event, v, data in produced.events:
        slot.version += 1
        events.append(Recorded(len(events) + 1, stream, slot.version, own.tags[type(event)], v, NOW_US, data, meta))
    first = len(events) - len(produced.events) + 1 if produced.events else 0
    id = f"fact:{command.node}:the-one" if isinstance(command, Fact) else "the-one"
    return aslog(events, [Decided(first, NOW_US, id, stream, payload, encode(produced.reply))], setting.incarnation)


def folded(own: Code, stream: str, events: list[Recorded]) -> Slot:
    slot = own.slot(stream)
    assert slot is not None
    for event in events:
        own.hear(event)
        if event.stream == stream:
            own.fold(slot, event, own.event(event))
    return slot


@pytest.mark.parametrize("name", SERVICES)
async def test_each_setting_decides_alike_under_other_names(name: str) -> None:
    decided = 0
    for setting in settings(name):
        content = log_of(name, setting)
        names = names_for(content, REGISTRY.classes, KEY)
        anonymizer = Anonymizer(codes(), REGISTRY.classes, names)
        try:
            new = anonymizer.run(content)
        except Unlike as error:
            raise AssertionError(setting.name) from error
        assert anonymizer.counts.renamed == 0, setting.name
        decided += anonymizer.counts.decided
        assert (await proven(new))[1] == {}, setting.name
        assert leaks(new, names.table(), REGISTRY.classes) == [], setting.name
        assert b"192.0.2.7" not in b"".join(one.payload for one in new.commands)
    assert decided == len(settings(name))
