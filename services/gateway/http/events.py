"""/v1/events and /v1/tasks: what happened, and what becomes of what was asked."""

from __future__ import annotations

from typing import Annotated

from litestar import get
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, QueryParameter
from litestar.response import Response, Stream

from libs.common.log import LogError
from services.gateway.auth import Action
from services.gateway.gateway import Gateway
from services.gateway.http.bodies import EventList, TaskList
from services.gateway.http.door import Asked
from services.gateway.past.answering import live_only
from services.gateway.problems import Problem, away
from services.gateway.stream import live, seen
from services.gateway.tasks import Task

EVENTS_MAX = 1000
READS_MAX = 20
"""reads of the log for one list: a token for a small project may see few of many events"""

After = Annotated[int | None, QueryParameter(ge=0, description="a position; events behind it are given")]
Limit = Annotated[int, QueryParameter(ge=1, le=EVENTS_MAX)]


@get("/v1/events", action=Action.READ, summary="Events, as a list or live", tags=["Events"])
async def events(
    request: Asked,
    gateway: NamedDependency[Gateway],
    after: After = None,
    follow: FromQuery[bool] = False,
    limit: Limit = EVENTS_MAX,
) -> Response[EventList]:
    """With `follow` a stream of server-sent events that can be resumed by `Last-Event-ID`; it begins at the end of the log
    unless `after` is given. Without, a list from `after` (0: the beginning) on."""
    if follow and gateway.past is not None:
        raise live_only(gateway.past.at_us)
    if follow:
        start = _resume(request, after, gateway.follower.position)
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return Stream(live(gateway, request.user, start), media_type="text/event-stream", headers=headers)  # type: ignore[return-value]
    return Response(await _list(request, gateway, after or 0, limit))


def _resume(request: Asked, after: int | None, end: int) -> int:
    text = request.headers.get("last-event-id")
    if text is None:
        return end if after is None else after
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise Problem(400, "BAD_EVENT_ID", "Last-Event-ID is no position", "send the id of the last event that came")
    return int(text)


async def _list(request: Asked, gateway: Gateway, after: int, limit: int) -> EventList:
    items: list[dict[str, object]] = []
    for _ in range(READS_MAX):
        try:
            records = await gateway.follower.since(after, limit - len(items))
        except LogError as error:
            raise away(f"the log cannot be read: {error}") from error
        if not records:
            break
        after = records[-1].position
        items += seen(gateway, request.user, records)
        if len(items) >= limit:
            break
    return EventList(items, after)


@get("/v1/tasks", action=Action.READ, summary="List tasks, the latest first", tags=["Tasks"])
async def list_tasks(request: Asked, gateway: NamedDependency[Gateway], limit: Limit = 100) -> TaskList:
    found = [task for task in reversed(gateway.model.tasks.all.values()) if request.user.sees(task.project)]
    for task in [task for task in found[:limit] if task.awaits]:
        await gateway.settle(task)
    return TaskList(found[:limit])


@get("/v1/tasks/{task:str}", action=Action.READ, summary="Show a task", tags=["Tasks"])
async def show_task(request: Asked, gateway: NamedDependency[Gateway], task: FromPath[str]) -> Task:
    return await gateway.task(request.user, task)
