"""Every string in a message, and what it is: a word of ours, text, or a name of the log's owner. Pure.

Told by the message's class: enums and literals are words; fields in WORDS hold words of ours, or of QEMU, as plain strings; those
in TEXTS are written by people, guests or programs; whatever else is a string is a name, and so is all that today's classes do not
know (fields that an older version had). So a field that comes later is a name until somebody says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from functools import cache
from typing import Any

import msgspec
from msgspec import inspect


class Leaf(StrEnum):
    WORD = "word"
    TEXT = "text"
    NAME = "name"


WORDS = frozenset(
    {
        *("accelerator", "cpu_model", "machine", "driver", "hotplug", "memory_areas", "qemu_version", "policy", "part", "what"),
        *("word", "by", "who", "strictest", "kind", "token", "refusal", "cause", "partial"),
        *("backup", "recovery", "parent", "parents", "below", "heirs", "heirs{key}", "damaged{key}", "BackupDamaged.found{key}"),
        *("backups{key}", "RecoverKnown.nodes{key}"),
        *("BackupPlan.cron", "BackupPlan.verify", "BackupRequested.plan", "BackupDeleteRequested.plan"),
        *("drill", "DrillPlan.cron", "read"),
        "WaveCandidate.damaged",
        *("terms{key}", "class_ratio_pct{key}", "services{key}", "Area.name", "Region.name", "Area.kind"),
    }
)
TEXTS = frozenset(
    {
        *("sentence", "remedy", "reason", "description", "said", "line", "error", "fault", "not_enforced", "why_not", "held"),
        *("alive", "health_reason", "planned", "unsent", "cmdline", "refused", "panic"),
        *("ReportBackupVerified.damaged{}", "BackupDamaged.found{}"),
        *("output", "Drill.check"),
        *("WaveCandidate.busy", "WaveSeen.failed", "WaveSeen.barred"),
        *("NodePathsNoted.networks", "NotePaths.networks"),
        *("ReportMemory.faults", "MemoryOrderReported.faults", "ReportLeft.left", "NodeRemoved.left"),
    }
)

type Told = Callable[[Leaf, str], str]


def mapped(kind: type[msgspec.Struct] | None, body: Any, leaf: Told) -> Any:
    """The same message (as plain values) with each string as `leaf` has it, but for blank ones, which are refused as such.
    kind: its class; None: nobody knows it."""
    return _mapped(_info(kind) if kind is not None else None, "", "", body, leaf)


def words(kind: type[msgspec.Struct]) -> set[str]:
    """Words of ours that messages of this class may hold: tags, fields, enums."""
    found: set[str] = set()
    _collect(_info(kind), found, set())
    return found


@cache
def _info(kind: Any) -> inspect.Type:
    return inspect.type_info(kind)


def _mapped(info: inspect.Type | None, owner: str, field: str, value: Any, leaf: Told) -> Any:
    if isinstance(value, str):
        return leaf(_leaf(info, owner, field, value), value) if value.strip() else value
    if isinstance(value, bytes):
        return b""  # nothing that is kept holds any but secrets
    found = _of(info, value)
    if isinstance(value, dict):
        return _dict(found, owner, field, value, leaf)
    if isinstance(value, list):
        return _list(found, owner, field, value, leaf)
    return value


def _leaf(info: inspect.Type | None, owner: str, field: str, value: str) -> Leaf:
    for one in info.types if isinstance(info, inspect.UnionType) else (info,):
        if isinstance(one, inspect.EnumType | inspect.LiteralType):
            known = [member.value for member in one.cls] if isinstance(one, inspect.EnumType) else one.values
            if value in known:
                return Leaf.WORD
    for table, kind in ((WORDS, Leaf.WORD), (TEXTS, Leaf.TEXT)):
        if field in table or f"{owner}.{field}" in table:
            return kind
    return Leaf.NAME


def _dict(info: inspect.Type | None, owner: str, field: str, value: dict[str, Any], leaf: Told) -> dict[str, Any]:
    if isinstance(info, inspect.StructType):
        fields = {one.encode_name: one.type for one in info.fields}
        name, tag = info.cls.__name__, info.tag_field
        return {
            key: item if key == tag else _mapped(fields.get(key), name, key, item, leaf) for key, item in value.items()
        }
    keys = info.key_type if isinstance(info, inspect.DictType) else None
    items = info.value_type if isinstance(info, inspect.DictType) else None
    return {
        _mapped(keys, owner, f"{field}{{key}}", key, leaf): _mapped(items, owner, f"{field}{{}}", item, leaf)
        for key, item in value.items()
    }


def _list(info: inspect.Type | None, owner: str, field: str, value: list[Any], leaf: Told) -> list[Any]:
    if isinstance(info, inspect.StructType):  # array_like
        places = [(one.encode_name, one.type) for one in info.fields][info.tag is not None :]
        known = [_mapped(type, info.cls.__name__, name, item, leaf) for (name, type), item in zip(places, value, strict=False)]
        return known + [_mapped(None, owner, field, item, leaf) for item in value[len(places) :]]
    if isinstance(info, inspect.TupleType):
        kinds = [*info.item_types, *[None] * len(value)]
        return [_mapped(kind, owner, field, item, leaf) for kind, item in zip(kinds, value, strict=False)]
    item_type = getattr(info, "item_type", None)
    return [_mapped(item_type, owner, field, item, leaf) for item in value]


def _of(info: inspect.Type | None, value: Any) -> inspect.Type | None:
    """Of a union, the type that the value is of."""
    if not isinstance(info, inspect.UnionType):
        return info
    structs = [one for one in info.types if isinstance(one, inspect.StructType)]
    if isinstance(value, dict):
        tagged = [one for one in structs if one.tag_field and value.get(one.tag_field) == one.tag]
        plain = [one for one in structs if not one.array_like and not one.tag_field]
        dicts = [one for one in info.types if isinstance(one, inspect.DictType)]
        return next(iter([*tagged, *plain, *dicts]), None)
    if isinstance(value, list):
        arrays = [one for one in structs if one.array_like]
        lists = [one for one in info.types if isinstance(one, inspect.CollectionType | inspect.TupleType)]
        return next(iter([*arrays, *lists]), None)
    return info


def _collect(info: inspect.Type, found: set[str], seen: set[Any]) -> None:
    match info:
        case inspect.UnionType(types=types) | inspect.TupleType(item_types=types):
            for one in types:
                _collect(one, found, seen)
        case inspect.CollectionType(item_type=item):
            _collect(item, found, seen)
        case inspect.DictType(key_type=key, value_type=item):
            _collect(key, found, seen)
            _collect(item, found, seen)
        case inspect.EnumType(cls=cls):
            found |= {str(member.value) for member in cls}
        case inspect.StructType(cls=cls, fields=fields) if cls not in seen:
            seen.add(cls)
            found |= {str(info.tag), str(info.tag_field)}
            for field in fields:
                found.add(field.encode_name)
                if isinstance(field.default, str):
                    found.add(field.default)
                _collect(field.type, found, seen)
