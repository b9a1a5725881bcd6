"""Several services folded at once are as each folded alone, event by event, and views are told of what changes them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import msgspec
import pytest

from libs.common.host.core import Host, state_bytes
from libs.common.host.folding import Folding
from libs.common.host.jobs import Slot
from libs.common.host.service import Service
from libs.common.messages import Meta, Recorded, decode_meta, encode
from libs.common.registry import TooNew
from libs.world.play import play
from libs.world.story import Step, Story
from proto.examples import example
from proto.families import REGISTRY
from proto.fence import FenceFailed
from proto.upcasts import UPCASTS
from services.compute.app import SERVICE as COMPUTE
from services.ha.app import SERVICE as HA
from services.io.app import SERVICE as IO
from services.memory.app import SERVICE as MEMORY

SERVICES = (COMPUTE, MEMORY, IO, HA)
STEPS = (
    Step("migrate", 1.0, "vm-0"),
    Step("pause", 2.0, "vm-1", for_s=1.0),
    Step("stop", 3.0, "vm-2"),
    Step("snapshot", 3.0, "vm-3"),
    Step("power", 4.0, "n2", for_s=20.0),
    Step("start", 9.0, "vm-2"),
    Step("stop", 12.0, "vm-4"),
    Step("delete", 20.0, "vm-4"),
    Step("guest_panic", 22.0, "vm-1"),
)


@cache
def lived() -> tuple[Recorded, ...]:
    """The log of a small cluster in which a node is lost, and VMs are moved, stopped, deleted."""
    outcome = play(Story(seed=3, vms=6, seconds=40.0, peace_s=20.0, vitals=True, steps=STEPS))
    assert not outcome.fault, outcome.fault
    return tuple(outcome.world.log.read_all_now(0, 1_000_000))


def one_by_one(service: Service, records: Sequence[Recorded], reacted: int) -> Host:
    """As a running service takes what others wrote: no table, no batch."""
    host = Host(service, dict(UPCASTS))
    for recorded in records:
        event = host.events.event(recorded) if host.events.knows(recorded.type) else None
        host.writer.hear(recorded)
        host.slots.fold(recorded, event)
        if recorded.position <= reacted and event is not None:
            host.views.apply(recorded, event)
    return host


def shown(host: Host) -> tuple[bytes, Any, Any]:
    slots = {n: (s.version, s.project, s.owner, s.correlation, s.trace, s.missed) for n, s in host.slots.items() if s.version}
    return state_bytes(host), msgspec.to_builtins(host.views), slots


def together(records: Sequence[Recorded], reacted: Sequence[int], chunk: int, owned: bool = True) -> list[Host]:
    hosts = [Host(service, dict(UPCASTS)) for service in SERVICES]
    folding = Folding(hosts, reacted, owned=owned)
    for at in range(0, len(records), chunk):
        folding.fold(records[at : at + chunk])
    for host in hosts:
        host.slots.settle()
    return hosts


@pytest.mark.parametrize("owned", [False, True])
@pytest.mark.parametrize("chunk", [1, 97, 5000])
def test_all_at_once_is_as_each_alone(chunk: int, owned: bool) -> None:
    records = lived()
    for host in together(records, [len(records)] * 4, chunk, owned):
        assert shown(host) == shown(one_by_one(host.service, records, len(records))), host.service.name


def test_views_stop_where_each_has_reacted_to() -> None:
    records = lived()
    reacted = [len(records), 100, 0, 170]
    for host, position in zip(together(records, reacted, 250), reacted, strict=True):
        assert shown(host) == shown(one_by_one(host.service, records, position)), host.service.name
        assert host.reactions.taken == position


def test_a_host_alone_folds_the_same() -> None:
    records = lived()
    host = Host(COMPUTE, dict(UPCASTS))
    host.fold(records, len(records))
    host.ready(1, records[-1].at_us)
    assert shown(host) == shown(one_by_one(COMPUTE, records, len(records)))


def test_an_own_event_of_no_known_type_stops_the_owner_and_nobody_else() -> None:
    strange = Recorded(1, "vm-web-1", 1, "vm_beamed", 1, 10, b"\x80", encode(Meta("c", "", "c", "user:a", 0)))
    Folding([Host(MEMORY, dict(UPCASTS)), Host(IO, dict(UPCASTS))], [1, 1]).fold([strange])
    with pytest.raises(TooNew, match="vm_beamed"):
        Folding([Host(MEMORY, dict(UPCASTS)), Host(COMPUTE, dict(UPCASTS))], [1, 1]).fold([strange])


def test_what_others_have_decoded_folds_the_same() -> None:
    """Also where it is of classes that nobody here knows."""
    records = lived()
    hosts = [Host(service, dict(UPCASTS)) for service in (MEMORY, IO)]
    folding = Folding(hosts, [len(records)] * 2)
    folding.fold(records, REGISTRY.events(records))
    for host in hosts:
        host.slots.settle()
        assert shown(host) == shown(one_by_one(host.service, records, len(records))), host.service.name


@pytest.mark.parametrize("decoded", [False, True])
def test_an_own_event_of_a_class_that_others_know_stops_the_owner(decoded: bool) -> None:
    data = encode(example(FenceFailed))
    strange = [Recorded(1, "ledger-n1", 1, "fence_failed", FenceFailed.VERSION, 10, data, encode(Meta("c", "", "c", "user:a", 0)))]
    events = REGISTRY.events(strange) if decoded else None
    Folding([Host(IO, dict(UPCASTS))], [1]).fold(strange, events)
    with pytest.raises(TooNew, match="fence_failed"):
        Folding([Host(MEMORY, dict(UPCASTS))], [1]).fold(strange, events)


def test_a_folding_leaves_the_state_that_streams_begin_in_as_it_is() -> None:
    """Deciders may change states in place (Decider.absorb)."""
    deciders = [decider for service in SERVICES for decider in service.deciders]
    before = {decider.kind: encode(decider.initial) for decider in deciders}
    together(lived(), [len(lived())] * 4, 640)
    assert {decider.kind: encode(decider.initial) for decider in deciders} == before


def test_what_others_may_have_too_is_not_changed() -> None:
    """A world's branches share states: one that goes on from there leaves the other's as they were."""
    records = lived()
    half = len(records) // 2
    for service in SERVICES:
        first, other = Host(service, dict(UPCASTS)), Host(service, dict(UPCASTS))
        first.fold(records[:half], half)
        before = state_bytes(first)
        for stream, slot in first.slots.items():
            other.slots[stream] = Slot(slot.state, slot.version)
        other.fold(records[half:], half)
        assert state_bytes(first) == before != state_bytes(other)


def test_a_hole_in_a_stream_is_missed_and_not_folded() -> None:
    first = next(r for r in lived() if r.stream == "vm-vm-0")
    later = msgspec.structs.replace(first, version=3)
    host = Host(COMPUTE, dict(UPCASTS))
    Folding([host], [later.position]).fold([later])
    assert (host.slots["vm-vm-0"].version, host.slots["vm-vm-0"].missed) == (0, 3)


def test_who_a_stream_belongs_to_is_its_first_events_and_its_story_the_latest() -> None:
    records = [r for r in lived() if r.stream == "vm-vm-0"]
    (compute, *_) = together(lived(), [len(lived())] * 4, 640)
    slot, last = compute.slots["vm-vm-0"], decode_meta(records[-1].meta)
    assert (slot.correlation, slot.trace, slot.version) == (last.correlation, last.trace, records[-1].version)
    assert slot.meta == b""


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)
def test_views_hear_only_what_their_service_follows(service: Service) -> None:
    """What is not decoded cannot be heard."""
    views = service.views
    parts = [views, *(views.__dataclass_fields__[name].default_factory for name in views.PARTS)]
    known = set(service.follows) | {event for decider in service.deciders for event in decider.events}
    assert {event.__name__ for part in parts for event in part.HEARS} - {event.__name__ for event in known} == set()
