"""/v1/diff and /v1/timeline: what changed between two moments, and the life of one object, a line each."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import msgspec
from litestar import get
from litestar.di import NamedDependency
from litestar.params import FromPath, QueryParameter

from libs.common.log import LogError
from libs.common.messages import Recorded
from services.gateway.auth import Action
from services.gateway.gateway import Gateway
from services.gateway.http.door import Asked
from services.gateway.http.why import shown_to, visible
from services.gateway.model import EVENTS
from services.gateway.past.differing import STREAMS, Change, changes, objects, roots
from services.gateway.past.model import PastModel
from services.gateway.past.moment import BadMoment, Moment, read
from services.gateway.problems import Problem, away
from services.gateway.scopes import CLUSTER
from services.gateway.tasks import Task
from services.gateway.why import reading
from services.gateway.why.sentences import sentence
from services.gateway.why.tree import Known, cause_of

EVENTS_MAX = 200_000
"""between two moments, in which reasons are looked for"""
CHANGES_MAX = 2000
"""told in one answer"""
CAUSES_MAX = 400
QUIET = frozenset({"ledger", "plan"})
"""streams of a node that say, line by line, what its VMs tell already"""

From = Annotated[str, QueryParameter(name="from", description="a position, a time, or how long ago")]
To = Annotated[str, QueryParameter(name="to", description="likewise; none: now")]


class Edge(msgspec.Struct):
    position: int
    at_us: int


class Diff(msgspec.Struct, rename={"from_": "from"}):
    """more: changes beyond those told. unread: events in between in which no reason was looked for, as they were too many."""

    from_: Edge
    to: Edge
    changes: list[Change]
    more: int = 0
    unread: int = 0


class Lived(msgspec.Struct):
    """cause: what led to it, in a sentence; cause_position: the event that did, 0 where somebody asked for it."""

    position: int
    at_us: int
    type: str
    sentence: str
    actor: str
    asked_by: str
    task: str
    cause: str = ""
    cause_position: int = 0


class Timeline(msgspec.Struct):
    """The newest, in order; older: how many came before them."""

    object: str
    items: list[Lived]
    older: int = 0


@get("/v1/diff", action=Action.READ, summary="What changed between two moments", tags=["Past"])
async def diff(request: Asked, gateway: NamedDependency[Gateway], since: From, until: To = "") -> Diff:
    """Of objects that the token may see: which came, went and changed, and the stories that did it."""
    if gateway.past is not None:
        raise Problem(400, "BAD_MOMENT", "a difference has two moments of its own", "say them by `from` and `to`, without `at`")
    first, second = await _state(gateway, since, "from"), await _state(gateway, until, "to")
    if first.position > second.position:
        said = f"`from` is position {first.position}, after `to`, which is {second.position}"
        raise Problem(400, "BAD_MOMENT", said, "name the earlier one first", field="from")
    found = []
    for kind, name, change in changes(first.as_read(), second.as_read()):
        sides = [each for model in (first, second) if (each := objects(model.as_read(), kind).get(name)) is not None]
        if all(request.user.sees(getattr(side, "project", CLUSTER)) for side in sides):
            found.append(change)
    told = found[:CHANGES_MAX]
    start = max(first.position, second.position - EVENTS_MAX)

    def task(id: str) -> Task | None:
        known = second.as_read().tasks.all.get(id)
        return known if known is not None and request.user.sees(known.project) else None

    events = await _between(gateway, start, second.position)
    because = roots(events, frozenset(change.object for change in told), task, partial(shown_to, request, gateway, ""))
    for change in told:
        change.because = because.get(change.object, [])
    edges = Edge(first.position, first.at_us), Edge(second.position, second.at_us)
    return Diff(*edges, told, len(found) - len(told), start - first.position)


async def _state(gateway: Gateway, text: str, field: str) -> PastModel:
    """Raises Problem 400, 503."""
    try:
        if not text:
            return await gateway.pasts.at(Moment(position=(await gateway.pasts.log.head()).position))
        return await gateway.pasts.at(read(text, gateway.clock.now_us()))
    except BadMoment as bad:
        raise Problem(400, "BAD_MOMENT", str(bad), bad.remedy, field=field) from bad
    except LogError as error:
        raise away(f"the log cannot be read: {error}") from error


async def _between(gateway: Gateway, after: int, until: int) -> list[tuple[Recorded, object]]:
    try:
        chunks = [chunk async for chunk in gateway.pasts.log.replay(after, until)]
        return [pair for chunk in chunks for pair in zip(chunk, EVENTS.events(chunk), strict=True)]
    except LogError as error:
        raise away(f"the log cannot be read: {error}") from error


@get("/v1/timeline/{kind:str}/{name:str}", action=Action.READ, summary="The life of an object, a line each", tags=["Past"])
async def timeline(
    request: Asked, gateway: NamedDependency[Gateway], kind: FromPath[str], name: FromPath[str]
) -> Timeline:
    """With who asked for each step, and what led to it. A VM that was deleted has its life still."""
    await visible(request, gateway, kind, name)
    streams = [f"{stream}-{name}" for stream in STREAMS[kind] if stream not in QUIET]
    try:
        read_rows = [await reading.read_newest(gateway.log, stream) for stream in streams]
        rows = sorted((row for rows in read_rows for row in rows), key=lambda row: row.position)[-reading.EVENTS_MAX :]
        seen = [found for row in rows if (found := shown_to(request, gateway, name if kind == "vm" else "", reading.known(row)))]
        causes = await _causes(request, gateway, seen)
    except LogError as error:
        raise away(f"the log cannot be read: {error}") from error
    total = sum(rows[-1].version for rows in read_rows if rows)
    return Timeline(f"{kind}/{name}", _lines(seen, causes), total - len(rows))


async def _causes(request: Asked, gateway: Gateway, seen: list[Known]) -> dict[int, Known]:
    """Raises LogError."""
    there = {one.recorded.position: one for one in seen}
    missing = dict.fromkeys(at for one in seen if (at := cause_of(one.meta)) and at not in there)
    found = await reading.read_at(gateway.log, list(missing)[-CAUSES_MAX:])
    told = (shown_to(request, gateway, "", one) for one in found)
    return there | {one.recorded.position: one for one in told if one is not None}


def _lines(seen: list[Known], causes: dict[int, Known]) -> list[Lived]:
    begun: dict[str, str] = {}
    items = []
    for recorded, meta, event in seen:
        asked_by = begun.setdefault(meta.correlation, meta.actor)
        at = cause_of(meta)
        cause = causes.get(at)
        why = sentence(cause.recorded.type, cause.event) if cause is not None else ""
        said = sentence(recorded.type, event)
        items.append(
            Lived(recorded.position, recorded.at_us, recorded.type, said, meta.actor, asked_by, meta.correlation, why, at)
        )
    return items
