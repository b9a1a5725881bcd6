"""Other names: of the same shape, in the same order, and every string of every message has its place."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest
from hypothesis import example as such_as
from hypothesis import given
from hypothesis import strategies as st
from msgspec import inspect

from libs.common.messages import DNS_LABEL, encode
from libs.past.slices.leaves import TEXTS, WORDS, Leaf, mapped
from libs.past.slices.names import KEPT, SHAPES, Names
from proto.compute import VmStopped
from proto.examples import example
from proto.families import FAMILIES, REGISTRY
from proto.lease import LeaseTaken

KEY = b"k" * 32
labels = st.sets(st.from_regex(r"[a-z0-9]([-a-z0-9]{0,20}[a-z0-9])?", fullmatch=True), max_size=40)


@given(labels, st.binary(min_size=32, max_size=32))
@such_as({"0", "00000000"}, KEY)
@such_as({"00000000", "0000000a", "zz"}, KEY)
def test_labels_keep_their_order_and_are_labels(old: set[str], key: bytes) -> None:
    names = Names(key, old, old)
    new = [names.rename(name) for name in sorted(old)]
    assert new == sorted(new) and len(set(new)) == len(old)
    assert all(re.fullmatch(DNS_LABEL, name) for name in new)
    hidden = {name for name in old if names.rename(name) != name}
    assert not hidden & set(new)
    assert old - hidden <= KEPT


@pytest.mark.parametrize("shape", ["uuid", "mac", "hex", "ipv4", "ipv6", "key", "base64"])
@given(data=st.data())
def test_shapes_are_kept_in_order(shape: str, data: st.DataObject) -> None:
    examples = {
        "uuid": st.uuids().map(str), "mac": st.binary(min_size=6, max_size=6).map(lambda b: b.hex(":")),
        "hex": st.binary(min_size=16, max_size=16).map(bytes.hex).filter(lambda text: any(c.isdigit() for c in text)),
        "ipv4": st.ip_addresses(v=4).map(str), "ipv6": st.ip_addresses(v=6).map(str).filter(lambda text: text.count(":") > 1),
        "key": st.from_regex("[A-Z2-7]{56}", fullmatch=True), "base64": st.from_regex("[A-Za-z+/]{68}", fullmatch=True),
    }  # fmt: skip
    old = data.draw(st.sets(examples[shape], max_size=10))
    old = {name for name in old if next((s for s, pattern in SHAPES.items() if pattern.fullmatch(name)), "") == shape}
    names = Names(KEY, old)
    new = [names.rename(name) for name in sorted(old)]
    assert new == sorted(new) and len(set(new)) == len(old)
    assert all(SHAPES[shape].fullmatch(name) for name in new)
    if shape in {"hex", "key", "base64"}:
        assert {len(name) for name in new} <= {len(name) for name in old}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("https://bmc7.corp.example:8443/redfish/v1/Systems/payroll", r"https://[\w-]+"),
        ("payroll.corp.example:7471", r"[\w-]+:7471"),
        ("10.20.30.40:7471", r"10\.\d+\.\d+\.\d+:7471"),
        ("[fd12::1]:7471", r"\[fd00:[0-9a-f:]+\]:7471"),
        ("payroll-disk0.qcow2", r"[\w-]+\.qcow2"),
        ("asv-dcf281fa316dafec", r"asv-[0-9a-f]{16}"),
        ("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ8s1f0payrollAAAA ops@corp.example", r"ssh-ed25519 [0-9a-f]+"),
        ("it is of the payroll people", r"\(left out: [0-9a-f]{6}\)"),
    ],
)
def test_what_is_made_of_parts_keeps_what_says_nothing(old: str, new: str) -> None:
    made = Names(KEY, {old}).rename(old)
    assert re.fullmatch(new, made), made
    assert not set(re.findall("payroll|corp|bmc7|ops", old)) & set(re.findall("[a-z0-9]+", made))


def test_another_key_gives_other_names_and_the_same_the_same() -> None:
    old = {"payroll-db", "web-1", "web-2"}
    one, same, other = Names(KEY, old), Names(KEY, old), Names(b"other" * 8, old)
    assert one.table() == same.table() and set(one.table()) == old
    assert not set(one.table().values()) & set(other.table().values())


def test_strings_are_told_by_their_class_and_unknown_ones_are_names() -> None:
    said: list[tuple[Leaf, str]] = []
    body = {
        "type": "vm_stopped", "vm": "web", "node": "n1", "generation": 1, "cause": "panic", "sentence": "oh", "of_tomorrow": ["x"],
    }  # fmt: skip

    def note(leaf: Leaf, text: str) -> str:
        said.append((leaf, text))
        return text

    mapped(VmStopped, body, note)
    names = [(Leaf.NAME, "web"), (Leaf.NAME, "n1")]
    assert said == [*names, (Leaf.WORD, "panic"), (Leaf.TEXT, "oh"), (Leaf.NAME, "x")]
    body = {"type": "lease_taken", "node": "n1", "term": 1, "boot_id": "b", "at_us": 1, "pools": ["p"], "address": "h:1"}
    renamed = mapped(LeaseTaken, body, lambda leaf, text: text.upper())
    assert renamed == body | {"node": "N1", "boot_id": "B", "pools": ["P"], "address": "H:1"}


def test_the_tables_name_fields_that_there_are() -> None:
    there: set[str] = set()
    for kind in REGISTRY.classes.values():
        _fields(inspect.type_info(kind), there, set())
    plain = {name.partition("{")[0] for name in WORDS | TEXTS}
    assert plain - there == {"Area.kind"} - there


def test_every_message_survives_it() -> None:
    """Renamed, it is still one of its class."""
    recorded = [kind for family in FAMILIES.values() for kind in (*family.commands, *family.facts, *family.events)]
    for kind in recorded:
        body = msgspec.msgpack.decode(encode(example(kind)))
        made = mapped(kind, body, lambda leaf, text: Names(KEY, {text}).rename(text) if leaf is Leaf.NAME else text)
        assert msgspec.convert(made, type=kind) is not None, kind


def _fields(info: inspect.Type, found: set[str], seen: set[Any]) -> None:
    for one in getattr(info, "types", ()) or getattr(info, "item_types", ()):
        _fields(one, found, seen)
    for part in ("item_type", "key_type", "value_type"):
        if hasattr(info, part):
            _fields(getattr(info, part), found, seen)
    if isinstance(info, inspect.StructType) and info.cls not in seen:
        seen.add(info.cls)
        for field in info.fields:
            found |= {field.encode_name, f"{info.cls.__name__}.{field.encode_name}"}
            _fields(field.type, found, seen)
