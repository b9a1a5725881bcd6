"""The door: every route says which action it is (`action=…`) or that it is open (`open=True`); what says neither is closed.

A body is checked twice as strictly as the framework would: wrong types are not bent into right ones.
"""

from __future__ import annotations

import logging
from typing import Any

import msgspec
from litestar import Request
from litestar.connection import ASGIConnection
from litestar.datastructures import State
from litestar.exceptions import HTTPException
from litestar.handlers.base import BaseRouteHandler
from litestar.response import Response

from libs.common.log import LogError
from libs.common.protocol import OURS, compatible, parse
from libs.common.telemetry import current
from services.gateway.auth import Action, Principal
from services.gateway.commands import Asker, command_id
from services.gateway.gateway import Gateway
from services.gateway.past.answering import live_only, past_of
from services.gateway.past.moment import BadMoment
from services.gateway.past.moment import read as read_moment
from services.gateway.problems import Problem, away, bad_body
from services.gateway.tokens import StoreAway

_log = logging.getLogger(__name__)

PROTOCOL_HEADER = "Asv-Protocol"
PROBLEM_JSON = "application/problem+json"
AT_HEADER = "Asv-At"
"""the moment of the past that is asked about, where it is not in the query (`at`)"""
PAST = "past"
"""where a request keeps the gateway of that moment"""

Asked = Request[Principal, Any, State]


def gateway_of(connection: ASGIConnection[Any, Any, Any, Any]) -> Gateway:
    found: Gateway = connection.app.state.gateway
    return found


async def door(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
    """Do we understand each other, who is it, and may they? Raises Problem 426, 400, 401, 403, 503."""
    _understood(connection.headers.get(PROTOCOL_HEADER.lower(), ""))
    if handler.opt.get("open"):
        return
    action: Action = handler.opt["action"]
    gateway = gateway_of(connection)
    who = await _who(gateway, connection.headers.get("authorization", ""))
    connection.scope["user"] = who
    if why := who.why_not(action):
        raise Problem(403, "NOT_PERMITTED", why, "ask an admin for a token with that right")
    if text := connection.headers.get(AT_HEADER.lower(), "") or connection.query_params.get("at", ""):
        connection.scope["state"][PAST] = await _past(gateway, str(text), connection, live=bool(handler.opt.get("live")))


async def _past(gateway: Gateway, text: str, connection: ASGIConnection[Any, Any, Any, Any], *, live: bool) -> Gateway:
    """The gateway as it was at that moment. Raises Problem 400, 409, 503."""
    now_us = gateway.clock.now_us()
    try:
        moment = read_moment(text, now_us)
        if connection.scope.get("method") != "GET":
            said = "what is past cannot be changed: only what reads takes a moment of the past"
            raise Problem(400, "PAST_IS_OVER", said, "leave out `at` (asvctl: --at)")
        if live:
            raise live_only(max(0, moment.at_us))
        return past_of(gateway, await gateway.pasts.at(moment))
    except BadMoment as bad:
        raise Problem(400, "BAD_MOMENT", str(bad), bad.remedy, field="at") from bad
    except LogError as error:
        raise away(f"the log cannot be read: {error}") from error


def _understood(said: str) -> None:
    """A client may say which protocol it speaks; one that says nothing is believed to understand."""
    if not said:
        return
    try:
        theirs = parse(said)
    except ValueError as wrong:
        raise Problem(400, "BAD_PROTOCOL", f"{PROTOCOL_HEADER}: {wrong}", f"send `{PROTOCOL_HEADER}: {OURS}`") from None
    if not compatible(theirs, OURS):
        older = "the client" if theirs.newest < OURS.oldest else "the control plane"
        raise Problem(
            426, "PROTOCOL", f"the client speaks protocol {theirs}, this gateway {OURS}", f"upgrade {older}: it is the older one"
        )


async def _who(gateway: Gateway, header: str) -> Principal:
    scheme, _, token = header.partition(" ")
    remedy = "send `Authorization: Bearer TOKEN` with a token that is neither expired nor revoked"
    if scheme.lower() != "bearer" or not token:
        raise Problem(401, "NO_TOKEN", "the request carries no bearer token", remedy)
    try:
        who = await gateway.keyring.who(token.strip(), gateway.clock.now_us())
    except StoreAway as error:
        raise away(str(error)) from error
    if who is None:
        raise Problem(401, "BAD_TOKEN", "the token is unknown, expired or revoked", remedy)
    return who


async def strict_body(request: Request[Any, Any, Any]) -> None:
    """Before the framework reads the body as the handler's `data`, read it as exactly that type. Raises Problem 400."""
    parameter = request.route_handler.parsed_fn_signature.parameters.get("data")
    if parameter is None:
        return
    model, raw = parameter.annotation, await request.body()
    if not raw and parameter.has_default:
        return
    try:
        msgspec.json.decode(raw, type=model)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        bad_body(error, model)


def asker(request: Asked, gateway: Gateway) -> Asker:
    """Who asks for a change, and under which command id. Raises Problem 400."""
    key = command_id(request.headers.get("idempotency-key"), gateway.clock)
    return Asker(request.user, key, current(), request.client.host if request.client else "")


def on_problem(request: Request[Any, Any, Any], problem: Problem) -> Response[bytes]:
    headers = problem.headers | {PROTOCOL_HEADER: str(OURS)}
    return Response(problem.content(), media_type=PROBLEM_JSON, status_code=problem.body.status, headers=headers)


def on_http(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    """What the framework itself refuses: unknown paths, wrong methods, bad parameters, too large bodies."""
    detail = error.detail or str(error)
    extra = error.extra if isinstance(error.extra, list) else []
    parts = [f"{part.get('key')}: {part.get('message')}" for part in extra if isinstance(part, dict)]
    words = {404: "UNKNOWN_PATH", 405: "WRONG_METHOD", 413: "TOO_LARGE", 400: "BAD_REQUEST"}
    remedy = "see /schema" if error.status_code in words else ""
    reason = words.get(error.status_code, "HTTP_ERROR")
    return on_problem(request, Problem(error.status_code, reason, "; ".join(parts) or detail, remedy))


def on_away(request: Request[Any, Any, Any], error: StoreAway) -> Response[bytes]:
    return on_problem(request, away(str(error)))


def on_bug(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """A mistake of ours: the log has it all, the client learns that it is not theirs. Nothing of the body is logged."""
    _log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return on_problem(request, Problem(500, "BUG", "the gateway made a mistake; its log tells more", "report it"))
