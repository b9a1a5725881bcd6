"""`asvctl events`: what was decided and seen, as it lies in the log; live with --follow."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from typing import Annotated, Any

import typer

from services.cli import show
from services.cli.client import Client, path
from services.cli.failure import UNREACHABLE, Failure
from services.cli.session import AsJson, client, wants_json

SILENCE_S_MAX = 90.0
"""a live stream that is silent for so long is dead: the gateway sends comments in between"""
AWAY_S_MAX = 60.0
"""how long a follower waits for a gateway that went away"""
AGAIN_S = 0.5


def events(
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes; Ctrl-C ends.")] = False,
    after: Annotated[
        int | None, typer.Option(metavar="POSITION", help="Only events behind that position.", min=0)
    ] = None,
    last: Annotated[
        int, typer.Option(metavar="COUNT", help="Only the newest so many of the log; with --follow, begin with them.", min=0)
    ] = 0,
    vm: Annotated[str, typer.Option(metavar="NAME", help="Only events that speak of this VM.")] = "",
    _json: AsJson = False,
) -> None:
    """Events of the log; --json gives one JSON object per line."""
    if last and after is not None:
        raise typer.BadParameter("either --last or --after")
    if last:
        after = max(0, client().get(path("cluster"))["position"] - last)
    if not follow:
        _print_all(listed(client(), after or 0), vm)
        return
    try:
        _print_all(followed(client(timeout_s=SILENCE_S_MAX), after), vm)
    except KeyboardInterrupt:
        raise typer.Exit(0) from None  # how one ends it


def _print_all(found: Iterable[dict[str, Any]], vm: str) -> None:
    for event in found:
        if vm and not speaks_of(event, vm):
            continue
        if wants_json():
            print(json.dumps(event, ensure_ascii=False), flush=True)
        else:
            print(line(event), flush=True)


def speaks_of(event: dict[str, Any], vm: str) -> bool:
    """In the VM's own streams, or with the VM's name in its data."""
    data = event.get("data") or {}
    return event.get("stream") in (f"vm-{vm}", f"devices-{vm}") or (isinstance(data, dict) and data.get("vm") == vm)


def line(event: dict[str, Any]) -> str:
    """`17  10:02:11  vm-web-1  vm_started  node=n1 generation=1`."""
    data = event.get("data") if isinstance(event.get("data"), dict) else {}
    told = " ".join(
        f"{k}={_short(v)}" for k, v in (data or {}).items() if k not in ("type", "vm") and v not in ("", [], None)
    )
    parts = (event.get("position"), show.when(event.get("at_us")), event.get("stream"), event.get("type"), told)
    return "  ".join(show.clean(part) for part in parts if part not in (None, ""))


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return "{…}"
    if isinstance(value, list):
        return ",".join(_short(v) for v in value) if len(value) <= 4 else f"[{len(value)}]"
    return str(value)


def listed(api: Client, after: int) -> Iterator[dict[str, Any]]:
    """All events behind a position, page by page."""
    while True:
        page = api.get(path("events", after=after))
        yield from page["items"]
        if page["position"] <= after:
            return
        after = page["position"]


def followed(api: Client, after: int | None) -> Iterator[dict[str, Any]]:
    """Live events, without a hole: a cut connection is made anew behind the last position that came. Raises Failure when
    the gateway stays away for AWAY_S_MAX."""
    last = after
    heard_at = time.monotonic()
    while True:
        try:
            for id, event in messages(api.lines(path("events", after=last, follow=True))):
                heard_at = time.monotonic()
                last = id if id is not None else last
                if event is not None:
                    yield event
            sentence = "the stream of events ended"
        except Failure as failure:
            if failure.code != UNREACHABLE or time.monotonic() - heard_at > AWAY_S_MAX:
                raise
            sentence = failure.sentence
        show.note(f"asvctl: {sentence}; trying again")
        time.sleep(AGAIN_S)


def messages(lines: Iterator[str]) -> Iterator[tuple[int | None, dict[str, Any] | None]]:
    """(position, event) of each server-sent message; (None, None) for signs of life. Where the stream begins is a comment
    `: from POSITION`. Raises Failure with the gateway's sentence when it cuts the stream."""
    id: int | None = None
    kind, data = "", []
    for text in lines:
        field, _, value = text.partition(":")
        value = value.removeprefix(" ")
        if not field and text:
            yield _began(value), None
        elif field == "id" and value.isdigit():
            id = int(value)
        elif field == "event":
            kind = value
        elif field == "data":
            data.append(value)
        elif not text and data:
            event = _decoded("\n".join(data))
            if kind == "cut":
                raise Failure(UNREACHABLE, str((event or {}).get("sentence", "the stream was cut")))
            yield id, event
            kind, data = "", []


def _began(comment: str) -> int | None:
    words = comment.split()
    return int(words[1]) if len(words) == 2 and words[0] == "from" and words[1].isdigit() else None


def _decoded(text: str) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
