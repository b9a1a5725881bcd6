"""Every request from outside: in a sampled trace it is a span, and it is counted."""

from __future__ import annotations

import time

from litestar.enums import ScopeType
from litestar.middleware import ASGIMiddleware
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from libs.common.metrics import METRICS
from libs.common.telemetry import span
from services.gateway.commands import sampled
from services.gateway.http.door import PAST
from services.gateway.past.answering import POSITION_HEADER, TIME_HEADER
from services.gateway.past.moment import said

REQUESTS = METRICS.counter("asv_http_requests_total", "requests answered", ("method", "status"))
SECONDS = METRICS.histogram("asv_http_request_seconds", "from a request to the end of its answer", ("method",))
METHODS = frozenset({"GET", "POST", "DELETE", "HEAD", "OPTIONS", "PUT", "PATCH"})


def _moment(scope: Scope) -> list[tuple[bytes, bytes]]:
    """Of an answer about the past: which one."""
    past = scope["state"].get(PAST)
    if past is None:
        return []
    found = ((POSITION_HEADER, str(past.past.position)), (TIME_HEADER, said(past.past.at_us)))
    return [(name.lower().encode(), value.encode()) for name, value in found]


class Watch(ASGIMiddleware):
    """Streams are counted and not traced: a span tells of what ends soon. In names of spans and in labels a path is that of
    its route, so that they stay few."""

    scopes = (ScopeType.HTTP,)

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        method = str(scope.get("method", ""))
        method = method if method in METHODS else "OTHER"
        route = str(scope.get("path_template", ""))
        begun, status = time.perf_counter(), 500

        async def passed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *_moment(scope)]
                here.note(status=status)
            await send(message)

        header = dict(scope["headers"]).get(b"traceparent", b"").decode("latin-1")
        streams = route.endswith("/events")
        traced = not streams and not scope["route_handler"].opt.get("open")
        with span(f"{method} {route}", sampled(header) if traced else "") as here:
            try:
                await next_app(scope, receive, passed)
            finally:
                REQUESTS.add(1, method, f"{status // 100}xx")
                if not streams:
                    SECONDS.observe(time.perf_counter() - begun, method)
