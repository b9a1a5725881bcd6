"""May this schema follow that one under the same version? Pure comparison of two JSON schemas without references.

backward: today's code reads what was written before. forward: the previous release reads what is written today (an upgrade
goes node by node, so both live side by side). The only change that is always allowed is a new field with a default.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

type Schema = dict[str, Any]

NEW_VERSION = (
    "raise its VERSION, add an upcast to proto/upcasts.py, and write the new version only after `cluster finalize`"
)
BOUNDS = {"minimum": "least value", "maximum": "greatest value", "maxLength": "length", "minLength": "length"}


class Break(msgspec.Struct, frozen=True, order=True):
    """One forbidden change. way: `backward` or `forward`; where: the field's path; advice: what to do instead."""

    where: str
    way: str
    what: str
    advice: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what} ({self.way}); {self.advice}"


def schema_of(kind: type) -> Schema:
    """The JSON schema of a message class with every reference put in place, and without its prose."""
    (top,), parts = msgspec.json.schema_components([kind])
    schema: Schema = msgspec.json.decode(msgspec.json.encode(_inlined(top, parts)))
    return schema


def _inlined(node: Any, parts: dict[str, Any]) -> Any:
    if isinstance(node, list):
        return [_inlined(n, parts) for n in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        return _inlined(parts[node["$ref"].rpartition("/")[2]], parts)
    prose = ("title", "description")
    return {k: _inlined(v, parts) for k, v in node.items() if k not in prose or isinstance(v, dict)}


def breaks(old: Schema, new: Schema, where: str) -> list[Break]:
    """Why `new` may not follow `old` under the same version; empty when it may."""
    return sorted(_breaks(old, new, where))


def _breaks(old: Schema, new: Schema, where: str) -> Iterator[Break]:
    if old == new:
        return
    if "anyOf" in old or "anyOf" in new:
        yield from _of_unions(old.get("anyOf", [old]), new.get("anyOf", [new]), where)
    elif "enum" in old and "enum" in new:
        yield from _of_enums(old["enum"], new["enum"], where)
    elif old.get("type") != new.get("type"):
        was, now = old.get("type", "any"), new.get("type", "any")
        yield Break(where, "backward", f"was {was}, is {now}", NEW_VERSION)
    elif "properties" in old or "properties" in new:
        yield from _of_objects(old, new, where)
    elif old.get("type") == "array":
        yield from _of_arrays(old, new, where)
    elif "additionalProperties" in old and old["additionalProperties"] != new.get("additionalProperties"):
        yield from _breaks(_schema(old["additionalProperties"]), _schema(new.get("additionalProperties")), where + "{}")
    else:
        yield from _of_bounds(old, new, where)


def _schema(node: Any) -> Schema:
    return node if isinstance(node, dict) else {}


def _of_objects(old: Schema, new: Schema, where: str) -> Iterator[Break]:
    was, now = old.get("properties", {}), new.get("properties", {})
    must_was, must_now = set(old.get("required", ())), set(new.get("required", ()))
    for name in was.keys() - now.keys():
        way = "forward" if name in must_was else "backward"
        yield Break(f"{where}.{name}", way, "the field was taken away", f"keep it, or {NEW_VERSION}")
    for name in sorted(must_now - must_was):
        what = "became required" if name in was else "is a new required field"
        yield Break(f"{where}.{name}", "backward", f"{what}: old data lacks it", f"give it a default, or {NEW_VERSION}")
    for name in sorted((must_was - must_now) & now.keys()):
        yield Break(
            f"{where}.{name}",
            "forward",
            "is no longer required: old readers need it",
            f"keep it required, or {NEW_VERSION}",
        )
    for name in was.keys() & now.keys():
        a, b = was[name].get("default"), now[name].get("default")
        if a != b and "default" in was[name] and "default" in now[name]:
            # defaults are left out on the wire: data already written would change its meaning
            yield Break(
                f"{where}.{name}",
                "backward",
                f"default was {a!r}, is {b!r}: what old data left out now says something else",
                "keep it",
            )
        yield from _breaks(was[name], now[name], f"{where}.{name}")


def _of_enums(old: list[Any], new: list[Any], where: str) -> Iterator[Break]:
    for member in sorted(set(old) - set(new)):
        yield Break(where, "backward", f"the word {member!r} was taken away: old data holds it", "keep it")
    for member in sorted(set(new) - set(old)):
        yield Break(where, "forward", f"{member!r} is a new word: old readers refuse it", NEW_VERSION)


def _of_arrays(old: Schema, new: Schema, where: str) -> Iterator[Break]:
    """Lists have `items`; structs as arrays and fixed tuples have `prefixItems`, which may grow at the end by optional ones."""
    was, now = old.get("prefixItems", []), new.get("prefixItems", [])
    if len(now) < len(was):
        yield Break(where, "forward", "lost a place", f"keep it, or {NEW_VERSION}")
    if new.get("minItems", 0) > old.get("minItems", 0):
        yield Break(where, "backward", "a new place is required", f"give it a default, or {NEW_VERSION}")
    for index, (a, b) in enumerate(zip(was, now, strict=False)):
        yield from _breaks(a, b, f"{where}[{index}]")
    if not was and not now:
        yield from _breaks(_schema(old.get("items")), _schema(new.get("items")), where + "[]")


def _of_unions(old: list[Schema], new: list[Schema], where: str) -> Iterator[Break]:
    """Kinds that are in both are no news; one that changed is compared with its successor of the same type."""
    gone = [s for s in old if s not in new]
    come = [s for s in new if s not in old]
    for was in gone:
        heir = next((s for s in come if _kind(s) == _kind(was)), None)
        if heir is None:
            yield Break(where, "backward", f"may no longer be {_kind(was)}", f"keep it, or {NEW_VERSION}")
        else:
            come.remove(heir)
            yield from _breaks(was, heir, where)
    for now in come:
        yield Break(where, "forward", f"may now be {_kind(now)}: old readers refuse it", NEW_VERSION)


def _kind(schema: Schema) -> str:
    """What tells the parts of a union apart: the wire name where there is one, else the type."""
    tag = schema.get("properties", {}).get("type", {}).get("enum")
    return str(tag[0] if tag else schema.get("type", "an enum" if "enum" in schema else "any"))


def _of_bounds(old: Schema, new: Schema, where: str) -> Iterator[Break]:
    for key in sorted(set(old) | set(new)):
        was, now = old.get(key), new.get(key)
        if was == now or key == "default":
            continue
        if key in BOUNDS and _tighter(key, was, now):
            yield Break(
                where,
                "backward",
                f"{BOUNDS[key]} was {was}, is {now}: old data may lie outside",
                f"keep it, or {NEW_VERSION}",
            )
        elif key in BOUNDS:
            yield Break(
                where,
                "forward",
                f"{BOUNDS[key]} was {was}, is {now}: old readers refuse what lies outside",
                NEW_VERSION,
            )
        else:
            yield Break(where, "backward", f"{key} was {was!r}, is {now!r}", f"keep it, or {NEW_VERSION}")


def _tighter(key: str, was: float | None, now: float | None) -> bool:
    if now is None or was is None:
        return was is None
    return now > was if key.startswith("min") else now < was
