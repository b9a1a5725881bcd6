"""A made-up value of every message type, always the same one: the samples that are kept of each event version.

Every field is filled, optional ones too, so that a sample holds all that its version could say.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec
from msgspec import inspect

WORDS: dict[str, Any] = {
    "vm": "web-1",
    "node": "n1",
    "image": "tiny",
    "boot_image": "tiny",
    "pool": "default",
    "bridge": "br0",
    "network": "blue",
    "networks": "blue",
    "generation": 3,
    "version": 12,
    "order_version": 12,
    "mac": "52:54:00:12:34:56",
    "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0bab66d4b4b5f8b9d3d3e0",
    "uuid": "3e7c0a56-3a2b-4d0e-9f1c-2f5f5b1d9a01",
    "sentence": "the image tiny is not a qcow2 file",
    "boot_id": "7f2f6c1e-9f0e-4a52-8f4f-0a1a7f1c2b3d",
    "address": "10.0.0.11",
    "addresses": "10.0.2.15",
    "tried": "n2",
    "kernel": "vmlinux",
    "initrd": "initrd.img",
    "cmdline": "console=ttyS0",
    "file": "web-1-0.qcow2",
    "serial": "web-1-0",
    "name": "disk0",
    "backup": "b1-2",
    "key": "UAX5LCGDKH2PQK3RJ2FE5XQJ4D3ESMDAKYCFMGSHQIZ2TVSXLP6BXGMW",
    "machine": "pc-q35-7.2",
    "cpu_model": "qemu64",
    "memory_mib": 256,
    "released_mib": 256,
    "memory_max_mib": 1024,
    "vcpus": 1,
    "vcpus_max": 4,
    "policy": "spread/1",
    "accelerator": "tcg",
    "qemu_version": "7.2.0",
    "driver": "qemu",
    "hotplug": "cpu",
    "reason": "maintenance",
    "deadline_s": 60,
    "ref": "9f86d081884c7d659a2feaa0c55ad015",
    "forget": "main-3f2a9c41d07be856",
}
"""Likely values by field name, used where they are valid for the field's type; the rest follows from the type."""
KEY = "main-3f2a9c41d07be856"
"""of backups, where `key` is not a node's"""


def example[T](kind: type[T]) -> T:
    """A valid value of a message class, every field filled. Raises TypeError for a type that messages never hold."""
    value: Any = _struct(inspect.type_info(kind))
    return msgspec.convert(value, kind)


def _struct(info: Any) -> Any:
    values = {f.encode_name: _value(f.type, f.name) for f in info.fields}
    if info.array_like:
        return list(values.values())
    return {info.tag_field: info.tag} | values if info.tag_field else values


def _value(info: Any, name: str) -> Any:
    known = WORDS.get(name)
    match info:
        case inspect.StructType():
            return _struct(info)
        case inspect.UnionType(types=kinds):
            return _value(next(k for k in kinds if not isinstance(k, inspect.NoneType)), name)
        case inspect.EnumType(cls=cls):
            return list(cls)[-1].value
        case inspect.LiteralType(values=values):
            return values[0]
        case inspect.VarTupleType(item_type=item) | inspect.ListType(item_type=item):
            return [_value(item, name)]
        case inspect.TupleType(item_types=items):
            return [_value(item, name) for item in items]
        case inspect.DictType(key_type=key, value_type=value):
            return {_value(key, "node"): _value(value, "term")}
        case inspect.BoolType():
            return True
        case inspect.IntType(ge=low):
            return known if isinstance(known, int) else max(low or 0, 7)
        case inspect.FloatType():
            return 0.75
        case inspect.StrType(pattern=pattern):
            fitting = (word for word in (known, KEY) if isinstance(word, str) and re.search(pattern or "", word))
            return next(fitting, "word") if isinstance(known, str) else "word"
        case inspect.BytesType():
            return b"bytes"
    raise TypeError(f"{name}: no example for {info}")
