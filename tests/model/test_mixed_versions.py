"""Old and new versions of events beside each other: read in one go, folded to the same, written as the cluster may read them."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from libs.common.host.core import Host
from libs.common.host.versions import Writer, release_for
from libs.common.messages import Event, Meta, Recorded, encode, tag_of
from libs.common.protocol import PROTOCOL
from libs.common.registry import Registry, TooNew
from proto.examples import example
from proto.families import FAMILIES, REGISTRY
from proto.upcasts import DOWNCASTS, UPCASTS
from services.gateway.model import ReadModel
from services.host.known import service

ROOT = Path(__file__).parents[2]
RAISED: list[type[Event]] = [e for f in FAMILIES.values() for e in f.events if e.VERSION > 1 and issubclass(e, Event)]
META = encode(Meta("c", "", "c", "user:test", 0))


def row(type: str, v: int, data: bytes, position: int = 1, stream: str = "any-a") -> Recorded:
    return Recorded(position, stream, 1, type, v, 0, data, META)


def sample(event: type[Event], v: int) -> bytes:
    service = next(name for name, family in FAMILIES.items() if event in family.events)
    path = ROOT / "proto/samples" / service / f"{tag_of(event)}.v{v}.json"
    return encode(json.loads(path.read_text()))


def test_an_event_of_each_service_has_had_two_versions() -> None:
    owners = {name for name, family in FAMILIES.items() if set(family.events) & set(RAISED)}
    assert owners == {"compute", "memory", "io", "ha"}


@pytest.mark.parametrize("event", RAISED, ids=tag_of)
def test_the_frozen_sample_of_the_first_version_says_what_the_second_says(event: type[Event]) -> None:
    assert REGISTRY.event(row(tag_of(event), 1, sample(event, 1))) == REGISTRY.event(row(tag_of(event), 2, sample(event, 2)))


@pytest.mark.parametrize("event", RAISED, ids=tag_of)
def test_many_of_both_versions_are_read_as_each_alone(event: type[Event]) -> None:
    rows = [row(tag_of(event), v, sample(event, v)) for v in (1, 2, 1, 1)]
    assert REGISTRY.events(rows) == [REGISTRY.event(one) for one in rows]


@pytest.mark.parametrize("event", RAISED, ids=tag_of)
def test_until_the_cluster_is_finalized_the_first_is_written_and_nothing_is_lost(event: type[Event]) -> None:
    writer, whole = Writer(REGISTRY, dict(DOWNCASTS)), example(event)
    assert event.SINCE == PROTOCOL
    read, v, data = writer.write(whole)
    assert v == 1 and read == whole
    assert set(msgspec.msgpack.decode(data)) == set(msgspec.msgpack.decode(sample(event, 1)))
    writer.protocol = PROTOCOL
    read, v, data = writer.write(whole)
    assert (read, v) == (whole, 2) and REGISTRY.event(row(tag_of(event), 2, data)) == whole


@pytest.mark.parametrize("event", RAISED, ids=tag_of)
def test_a_map_that_leaves_out_what_has_a_default_is_read(event: type[Event]) -> None:
    must = {f.encode_name for f in msgspec.structs.fields(event) if f.required}
    whole: dict[str, object] = msgspec.msgpack.decode(encode(example(event)))
    bare = DOWNCASTS[(tag_of(event), 2)]({k: v for k, v in whole.items() if k in must | {"type"}})
    read = REGISTRY.event(row(tag_of(event), 1, encode(bare)))
    assert all(getattr(read, name) == getattr(example(event), name) for name in must)


def test_a_chunk_of_all_versions_is_read_as_row_by_row() -> None:
    rows = []
    for family in FAMILIES.values():
        for event in family.events:
            rows += [row(tag_of(event), v, sample(event, v)) for v in range(1, event.VERSION + 1)]  # type: ignore[arg-type]
    rows.insert(7, row("of_tomorrow", 1, encode({"type": "of_tomorrow"})))
    read = REGISTRY.events(rows * 3)
    assert read == [REGISTRY.event(r) if REGISTRY.knows(r.type) else None for r in rows * 3]
    assert read.count(None) == 3


def test_a_version_of_later_code_is_never_taken_for_one_that_is_known() -> None:
    later = row("memory_released", 3, sample(RAISED[0], 1), 12, "ledger-n1")
    for read in (lambda: REGISTRY.event(later), lambda: REGISTRY.events([later])):
        with pytest.raises(TooNew, match=r"ledger-n1 holds memory_released\.v3 at position 12; this release reads it up to v2"):
            read()
    with pytest.raises(TooNew):
        Host(service("compute"), dict(UPCASTS)).fold([later], 0)
    with pytest.raises(TooNew):
        ReadModel().apply(msgspec.structs.replace(later, position=1))


def test_an_unknown_type_stops_its_owner_and_nobody_else() -> None:
    strange = row("of_tomorrow", 1, encode({"type": "of_tomorrow"}), 1, "ledger-n1")
    owner, other = Host(service("memory"), dict(UPCASTS)), Host(service("io"), dict(UPCASTS))
    with pytest.raises(TooNew) as said:
        owner.fold([strange], 0)
    assert "Run the release that wrote it" in release_for(said.value, 1)
    assert f"run one that speaks {PROTOCOL + 1}" in release_for(said.value, PROTOCOL + 1)
    other.fold([strange], 1)
    live_owner, live_other = Host(service("memory"), dict(UPCASTS)), Host(service("io"), dict(UPCASTS))
    with pytest.raises(TooNew):
        live_owner.on_events([strange], 0)
    live_other.on_events([strange], 0)


def test_a_service_without_the_steps_says_so_at_once() -> None:
    bare = Registry(RAISED, {})
    with pytest.raises(KeyError):
        bare.event(row(tag_of(RAISED[0]), 1, sample(RAISED[0], 1)))
