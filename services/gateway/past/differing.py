"""What two past states have apart: objects that came and went, and the fields that are others. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import msgspec

from libs.common.messages import Recorded, decode_meta
from services.gateway.model import ReadModel
from services.gateway.tasks import Task
from services.gateway.why.sentences import sentence
from services.gateway.why.tree import Known

ROOTS_MAX = 8
"""stories told of one object, the latest"""
BESIDE = frozenset({"changed_us", "reasons", "reason", "placement"})
"""fields that follow from the others"""
VIEWS = {"vm": "vms", "node": "nodes", "image": "images", "network": "networks", "pool": "pools", "fence": "fences"}
"""kinds of objects -> the view that has them"""
STREAMS = {
    "vm": ("vm", "devices", "guard", "verdict", "map"),
    "node": ("node", "drain", "lease", "ledger", "plan"),
    "image": ("image",),
    "network": ("network",),
    "pool": ("pool",),
    "fence": ("fence",),
    "backup": ("backups",),
}  # fmt: skip
"""kinds of objects -> kinds of streams that are about one"""
KIND_OF = {stream: kind for kind, streams in STREAMS.items() for stream in streams}


class Field(msgspec.Struct):
    """null: it is not there."""

    name: str
    before: Any
    after: Any


class Root(msgspec.Struct):
    """A story that changed the object: its first event in between, who began it (asked_by), who said it, and what was asked for,
    where that is known (task)."""

    position: int
    at_us: int
    sentence: str
    actor: str
    asked_by: str = ""
    task: str = ""
    what: str = ""
    events: int = 1


class Change(msgspec.Struct):
    """what: added, removed or changed."""

    object: str
    what: str
    fields: list[Field] = []
    because: list[Root] = []


def objects(model: ReadModel, kind: str) -> Mapping[str, Any]:
    view = getattr(model, VIEWS[kind])
    found: Mapping[str, Any] = view.rules if kind == "pool" else view.all
    return found


def changes(before: ReadModel, after: ReadModel) -> Iterator[tuple[str, str, Change]]:
    """(kind, name, change), by kind and name."""
    for kind in VIEWS:
        old, new = objects(before, kind), objects(after, kind)
        for name in sorted(old.keys() | new.keys()):
            said = f"{kind}/{name}"
            if name not in old:
                yield kind, name, Change(said, "added")
            elif name not in new:
                yield kind, name, Change(said, "removed")
            elif fields := [*differing(old[name], new[name]), *(_standing(before, after, name) if kind == "node" else ())]:
                yield kind, name, Change(said, "changed", fields)


def _standing(before: ReadModel, after: ReadModel, node: str) -> list[Field]:
    """Whether it was trusted with its lease, as ha sees it."""
    old, new = (known.standing if (known := model.ha.nodes.get(node)) else "trusted" for model in (before, after))
    return [Field("standing", old, new)] if old != new else []


def differing(old: Any, new: Any) -> list[Field]:
    if old == new:
        return []
    first, second = msgspec.to_builtins(old), msgspec.to_builtins(new)
    names = [name for name in (first | second) if name not in BESIDE]
    return [Field(name, first.get(name), second.get(name)) for name in names if first.get(name) != second.get(name)]


def about(recorded: Recorded, event: Any) -> list[str]:
    """The objects that an event is about: its stream's, and the VM that it names."""
    stream, _, name = recorded.stream.partition("-")
    found = [f"{KIND_OF[stream]}/{name}"] if stream in KIND_OF else []
    vm = getattr(event, "vm", "")
    return [*found, f"vm/{vm}"] if vm and f"vm/{vm}" not in found else found


def roots(
    events: Iterable[tuple[Recorded, Any]],
    wanted: frozenset[str],
    task: Callable[[str], Task | None],
    shown: Callable[[Known], Known | None],
) -> dict[str, list[Root]]:
    """Of each of these objects, the stories that events between tell of it. task, shown: as far as the asker may know."""
    found: dict[str, dict[str, Root]] = {}
    for recorded, event in events:
        for name in about(recorded, event):
            if name not in wanted:
                continue
            meta, told = decode_meta(recorded.meta), found.setdefault(name, {})
            if shown(Known(recorded, meta, event)) is None:
                continue
            if (root := told.get(meta.correlation)) is not None:
                root.events += 1
                continue
            of = task(meta.correlation)
            asked = (of.actor, of.id, f"{of.kind} {of.object}") if of is not None else (meta.actor, "", "")
            told[meta.correlation] = Root(
                recorded.position, recorded.at_us, sentence(recorded.type, event), meta.actor, *asked
            )
    return {name: list(told.values())[-ROOTS_MAX:] for name, told in found.items()}
