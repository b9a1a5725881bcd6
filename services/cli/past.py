"""`asvctl diff` and `asvctl timeline`: what changed between two moments, and the life of an object."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import zip_longest
from typing import Annotated, Any

import typer

from services.cli import show
from services.cli.client import path
from services.cli.moment import zoned
from services.cli.session import AsJson, client, wants_json
from services.cli.why import OBJECTS, split

VALUE_MAX = 100
"""characters of a value that are shown"""
MARKS = {"added": "+", "removed": "-", "changed": "~"}


def diff(
    since: Annotated[str, typer.Option("--from", metavar="TIME|POSITION", help="'2026-11-20 14:03', -10m, a position.")],
    until: Annotated[str, typer.Option("--to", metavar="TIME|POSITION", help="Likewise. Default: now.")] = "",
    _json: AsJson = False,
) -> None:
    """What changed between two moments, by whom, and because of what."""
    found = client().get(path("diff", **{"from": zoned(since), "to": zoned(until)}))
    if wants_json():
        show.as_json(found)
        return
    first, second = found["from"], found["to"]
    print(f"from position {first['position']} ({show.when(first['at_us'])}) to {second['position']} ({show.when(second['at_us'])})")
    for change in found["changes"]:
        print(show.clean(f"{MARKS[change['what']]} {change['object']}"))
        for field in change.get("fields") or ():
            for name, before, after in apart(field["name"], field["before"], field["after"]):
                print(show.clean(f"    {name}: {_value(before)} → {_value(after)}"))
        for root in change.get("because") or ():
            print(show.clean(f"    because: {_because(root)}"))
    if not found["changes"]:
        print("nothing changed")
    if found.get("more"):
        print(f"({found['more']} more changes)")
    if found.get("unread"):
        show.note(f"too many events lie between: the first {found['unread']} were not searched for reasons")


def apart(name: str, before: Any, after: Any) -> Iterator[tuple[str, Any, Any]]:
    """Down to the parts that differ, with where they are: `disks[0].size_mib`. A part that is not there is null."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in before | after:
            yield from apart(f"{name}.{key}", before.get(key), after.get(key))
    elif isinstance(before, list) and isinstance(after, list):
        for n, (old, new) in enumerate(zip_longest(before, after)):
            yield from apart(f"{name}[{n}]", old, new)
    elif before != after:
        yield name, before, after


def _because(root: dict[str, Any]) -> str:
    what = f"{root['what']}: " if root.get("what") else ""
    who = root.get("asked_by") or root["actor"] or "somebody"
    more = f" and {root['events'] - 1} more" if root["events"] > 1 else ""
    return f"{show.when(root['at_us'])}  {who}  {what}{root['sentence']}{more} (event {root['position']})"


def _value(value: Any) -> str:
    text = value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= VALUE_MAX else f"{text[: VALUE_MAX - 1]}…"


def timeline(
    object: Annotated[str, typer.Argument(metavar="KIND/NAME", help="vm/web-1, node/n1, image/tiny, network/blue.")],
    last: Annotated[int, typer.Option(metavar="COUNT", help="How many of the newest; 0: all that are told.", min=0)] = 0,
    _json: AsJson = False,
) -> None:
    """The life of an object: a line each with when, what, who asked for it and what led to it."""
    kind, name = split(object, OBJECTS)
    found = client().get(path("timeline", kind, name))
    items = found["items"][-last:] if last else found["items"]
    if wants_json():
        show.as_json(found | {"items": items})
        return
    if found.get("older"):
        print(f"({found['older']} earlier events)")
    rows = [(show.when(i["at_us"]), i["position"], i["sentence"], i["asked_by"], i.get("cause") or "-") for i in items]
    show.table(("WHEN", "EVENT", "WHAT", "ASKED BY", "BECAUSE"), rows, "nothing is recorded of it")
