"""Every event ever written stays readable; neighbouring releases understand each other; the check says so in sentences."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, ClassVar

import msgspec
import pytest

from libs.common.messages import Event, Message, Recorded, Value
from libs.common.registry import Registry
from proto import asyncapi
from proto.check import Shelf, check, release, unlisted, write
from proto.compat import breaks, schema_of
from proto.examples import example
from proto.families import FAMILIES, REGISTRY, Family, Stream, registry, service_of
from proto.upcasts import UPCASTS

ROOT = Path(asyncapi.__file__).parent
ALL = [kind for family in FAMILIES.values() for kind in family.messages]


def test_the_checkout_keeps_the_promise() -> None:
    assert check(Shelf(ROOT), FAMILIES, UPCASTS) == []
    assert unlisted() == []
    assert asyncapi.stale(ROOT / "asyncapi.json", FAMILIES) == []


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_an_example_survives_the_wire_and_fills_every_field(kind: type[Message]) -> None:
    value: Any = example(kind)
    assert REGISTRY.decode(msgspec.msgpack.encode(value)) == value
    assert set(msgspec.to_builtins(value)) == {"type"} | {f.encode_name for f in msgspec.structs.fields(kind)}


def test_families_know_whose_streams_are_whose() -> None:
    assert {kind: service_of(kind) for kind in ("vm", "node", "ledger", "devices", "image")} == {
        "vm": "compute",
        "node": "compute",
        "ledger": "memory",
        "devices": "io",
        "image": "io",
    }
    with pytest.raises(KeyError):
        service_of("cat")
    assert registry("memory").knows("memory_reserved")
    assert not registry("memory").knows("vm_started")


def test_asyncapi_has_no_dangling_reference() -> None:
    whole: Any = msgspec.json.decode(msgspec.json.encode(asyncapi.document(FAMILIES)))
    for reference in _references(whole):
        place = whole
        for step in reference.removeprefix("#/").split("/"):
            assert step in place, reference
            place = place[step]
    assert whole["channels"]["compute.vm.events"]["address"] == "evt.vm.{stream}.{type}"
    assert whole["operations"]["node.ask.exec"]["reply"]["messages"] == [
        {"$ref": "#/channels/replies/messages/ExecResult"}
    ]


def _references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        for key, value in part.items():
            if key == "$ref":
                yield value
            else:
                yield from _references(value)
    elif isinstance(part, list):
        for value in part:
            yield from _references(value)


# --- the life of one event through releases ------------------------------------------------------------------------------


class Mood(StrEnum):
    CALM = "calm"
    CROSS = "cross"


class NextMood(StrEnum):
    CALM = "calm"
    CROSS = "cross"
    GLAD = "glad"


class Part(Value):
    size: int


class NextPart(Value):
    size: int
    weight: int


def _event(name: str, version: int = 1, /, **fields: Any) -> type[Event]:
    """An event class `CatSeen` with these fields, `(type, default)` or just the type."""
    space: dict[str, Any] = {"__annotations__": {}, "__module__": __name__, "VERSION": version}
    for field, kind in fields.items():
        has_default = isinstance(kind, tuple)
        space["__annotations__"][field] = kind[0] if has_default else kind
        if has_default:
            space[field] = kind[1]
    space["__annotations__"]["VERSION"] = ClassVar[int]
    meta: Any = type(Event)
    made: type[Event] = meta(name, (Event,), space)
    return made


BASE = {"cat": str, "mood": Mood, "part": Part}


def _family(event: type[Event]) -> dict[str, Family]:
    return {"zoo": Family(service="zoo", streams=(Stream("cat", (), (event,)),))}


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    """`CatSeen` version 1 was released with BASE fields."""
    shelf = Shelf(tmp_path)
    families = _family(_event("CatSeen", **BASE))
    assert "cat_seen.v1: no sample" in check(shelf, families, {})[0]
    write(shelf, families)
    assert check(shelf, families, {}) == []
    assert release(shelf, families) == ["cat_seen.v1"]
    return shelf


def test_a_field_with_a_default_is_an_allowed_addition(shelf: Shelf) -> None:
    families = _family(_event("CatSeen", **BASE, age=(int, 0)))
    assert check(shelf, families, {}) == [
        "cat_seen.v1: an allowed addition is not noted; run `python -m proto.check write`"
    ]
    assert write(shelf, families)[0] == "schema/zoo.json"
    assert check(shelf, families, {}) == []


@pytest.mark.parametrize(
    ("fields", "way", "what"),
    [
        (BASE | {"age": int}, "backward", "cat_seen.v1.age: is a new required field"),
        ({"cat": str, "mood": Mood}, "forward", "cat_seen.v1.part: the field was taken away"),
        (BASE | {"cat": int}, "backward", "cat_seen.v1.cat: was string, is integer"),
        (BASE | {"mood": NextMood}, "forward", "cat_seen.v1.mood: 'glad' is a new word: old readers refuse it"),
        (BASE | {"part": NextPart}, "backward", "cat_seen.v1.part.weight: is a new required field"),
        (BASE | {"cat": str | None}, "forward", "cat_seen.v1.cat: may now be null: old readers refuse it"),
        (BASE | {"cat": (str, "")}, "forward", "cat_seen.v1.cat: is no longer required"),
        (BASE | {"cat": Annotated[str, msgspec.Meta(max_length=5)]}, "backward", "length was None, is 5"),
    ],
    ids=["required", "removed", "retyped", "enum", "nested", "nullable", "optional", "bound"],
)
def test_a_forbidden_change_is_said_with_its_way_and_its_cure(
    shelf: Shelf, fields: dict[str, Any], way: str, what: str
) -> None:
    families = _family(_event("CatSeen", **fields))
    said = [line for line in check(shelf, families, {}) if what in line]
    assert said, check(shelf, families, {})
    assert f"({way}); " in said[0]
    assert "raise its VERSION, add an upcast" in said[0]
    before = {p: p.read_bytes() for p in shelf.root.rglob("*.json")}
    write(shelf, families, unreleased=True)
    changed = {p.name for p, data in before.items() if p.read_bytes() != data}
    assert changed <= {"asyncapi.json"}, "a released version was overwritten"


def test_a_new_version_needs_its_upcast_and_keeps_the_old_sample(shelf: Shelf) -> None:
    families = _family(_event("CatSeen", 2, **BASE, age=int))
    write(shelf, families)
    assert check(shelf, families, {}) == ["cat_seen.v1: no upcast ('cat_seen', 1); add that step to proto/upcasts.py"]
    upcasts = {("cat_seen", 1): lambda body: body | {"age": 9}}
    assert check(shelf, families, upcasts) == []
    assert shelf.samples("zoo") == ["cat_seen.v1", "cat_seen.v2"]
    shelf.sample("zoo", "cat_seen.v1").unlink()
    assert "restore it from the history" in check(shelf, families, upcasts)[0]


def test_a_released_class_may_not_vanish_an_unreleased_one_may(shelf: Shelf) -> None:
    both = {"zoo": Family("zoo", (Stream("cat", (), (_event("CatSeen", **BASE), _event("CatFed", cat=str))),))}
    write(shelf, both)
    dog = _family(_event("DogSeen", dog=str))
    write(shelf, dog, unreleased=True)
    assert check(shelf, dog, {}) == [
        "cat_seen.v1: no class has that name and version; it was released: bring its class back, it lies in logs"
    ]
    assert shelf.samples("zoo") == ["cat_seen.v1", "dog_seen.v1"]


def test_an_unreleased_version_is_rewritten_only_when_told(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    write(shelf, _family(_event("CatSeen", **BASE)))
    families = _family(_event("CatSeen", cat=str, age=int))
    write(shelf, families)
    assert all("--unreleased" in line for line in check(shelf, families, {}))
    write(shelf, families, unreleased=True)
    assert check(shelf, families, {}) == []


def test_a_changed_default_changes_what_old_data_said() -> None:
    old = schema_of(_event("CatSeen", age=(int, 1)))
    new = schema_of(_event("CatSeen", age=(int, 2)))
    assert "left out now says something else" in str(breaks(old, new, "cat_seen.v1")[0])


def test_arrays_grow_at_the_end_only() -> None:
    def beat(*fields: Any) -> dict[str, Any]:
        return schema_of(msgspec.defstruct("Beat", list(fields), array_like=True))

    old = beat(("node", str), ("load", float))
    assert breaks(old, beat(("node", str), ("load", float), ("vms", int, 0)), "beat") == []
    assert "a new place is required" in str(breaks(old, beat(("node", str), ("load", float), ("vms", int)), "beat")[0])
    assert breaks(old, beat(("load", float), ("node", str)), "beat")
    assert breaks(old, beat(("node", str)), "beat")


def test_old_rows_are_read_through_every_step() -> None:
    event = _event("CatSeen", 3, cat=str, age=int, mood=Mood)
    reader = Registry(
        [event],
        {("cat_seen", 1): lambda b: b | {"age": 1}, ("cat_seen", 2): lambda b: b | {"mood": "calm"}},
    )
    row = Recorded(1, "cat-a", 1, "cat_seen", 1, 0, msgspec.msgpack.encode({"type": "cat_seen", "cat": "a"}), b"")
    assert reader.event(row) == event(cat="a", age=1, mood=Mood.CALM)
