"""Errors as `application/problem+json` (RFC 9457), each with what was wrong and what would be right.

Problem        any answer that is no success; raised anywhere in a handler
problem_of     a command's Reply as a Problem
explain        msgspec's complaint about a body as field, fault and remedy
"""

from __future__ import annotations

import re
from http import HTTPStatus
from types import NoneType, UnionType
from typing import Annotated, Any, NoReturn, Union, get_args, get_origin

import msgspec

from libs.common.messages import Reply

RETRY_AFTER_S = 2
"""When to ask again while the control plane is away: longer than a restart of a service takes."""


class ProblemBody(msgspec.Struct, omit_defaults=True):
    """field: JSON path of the wrong part of a body; task: where the request is to be followed, if there is one."""

    title: str
    status: int
    detail: str
    type: str = "about:blank"
    reason: str = ""
    remedy: str = ""
    field: str = ""
    task: str = ""


class Problem(Exception):
    """An answer other than success. `reason` is a stable upper-case word."""

    def __init__(
        self, status: int, reason: str, detail: str, remedy: str = "", *, field: str = "", task: str = ""
    ) -> None:
        super().__init__(f"{status} {reason}: {detail}")
        self.body = ProblemBody(
            HTTPStatus(status).phrase, status, detail, f"urn:asv:{reason.lower()}", reason, remedy, field, task
        )

    @property
    def headers(self) -> dict[str, str]:
        if self.body.status == HTTPStatus.SERVICE_UNAVAILABLE:
            return {"Retry-After": str(RETRY_AFTER_S)}
        return {"WWW-Authenticate": "Bearer"} if self.body.status == HTTPStatus.UNAUTHORIZED else {}

    def content(self) -> bytes:
        return msgspec.json.encode(self.body)


def unknown(what: str, name: str) -> Problem:
    return Problem(404, "UNKNOWN", f"there is no {what} `{name}` that this token may see", f"list the {what}s first")


def not_running(vm: str, state: str) -> Problem:
    remedy = f"resume {vm} first" if state in ("paused", "pausing") else "start it and wait until it runs"
    return Problem(409, "NOT_RUNNING", f"{vm} is {state}", remedy)


def away(what: str, remedy: str = "ask again in a moment", *, task: str = "") -> Problem:
    return Problem(503, "UNAVAILABLE", what, remedy, task=task)


_STATUS = {"refused": 409, "invalid": 400}


def problem_of(reply: Reply, task: str = "") -> Problem:
    """For every reply that is not accepted."""
    status = _STATUS.get(reply.status, 503)
    reason = reply.reason or reply.status.upper()
    return Problem(status, reason, reply.sentence or f"the command was {reply.status}", reply.remedy, task=task)


_PATH = re.compile(r" - at `(?:key in )?\$?(?P<path>[^`]*)`$")
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<name>.*)`", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(?P<name>.*)`", re.DOTALL)


def bad_body(error: Exception, model: Any) -> NoReturn:
    """Raises the Problem that a body deserves which is not JSON, or not such a model."""
    if not isinstance(error, msgspec.ValidationError):
        raise Problem(400, "NOT_JSON", f"the body is not JSON: {error}", "send a JSON object in UTF-8") from error
    path, fault, remedy = explain(error, model)
    detail = f"{path}: {fault}" if path else fault
    raise Problem(400, "BAD_BODY", detail, remedy, field=path) from error


def explain(error: msgspec.ValidationError, model: Any) -> tuple[str, str, str]:
    """(path, fault, remedy): `disks[0].size_mib`, what msgspec says of it, and what that field takes."""
    text = str(error)
    found = _PATH.search(text)
    path = found["path"].lstrip(".") if found else ""
    fault = text[: found.start()] if found else text
    if (strange := _UNKNOWN.fullmatch(fault)) is not None:
        known = ", ".join(sorted(_fields(_bare(_at(model, path))))) or "none"
        return _join(path, strange["name"]), f"there is no field `{strange['name']}`", f"known fields: {known}"
    if (missing := _MISSING.fullmatch(fault)) is not None:
        path = _join(path, missing["name"])
        return path, "is missing", f"takes {describe(_at(model, path))}"
    if fault.startswith("Expected `str` matching regex"):
        fault = "is not spelled as it has to be"
    return path, fault, f"takes {describe(_at(model, path))}"


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _bare(kind: Any) -> Any:
    """The type behind Annotated, and the one beside None."""
    if get_origin(kind) is Annotated:
        return _bare(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        return next(_bare(one) for one in get_args(kind) if one is not NoneType)
    return kind


def _fields(model: Any) -> dict[str, Any]:
    if isinstance(model, type) and issubclass(model, msgspec.Struct):
        return {f.encode_name: f.type for f in msgspec.structs.fields(model)}
    return {}


def _at(model: Any, path: str) -> Any:
    """The type at a path such as `disks[0].size_mib`; object where it cannot be told."""
    for part in re.findall(r"[^.\[\]]+|\[[^\]]*\]", path):
        if part.startswith("["):
            args = get_args(_bare(model))
            model = args[0] if args else object
        else:
            model = _fields(_bare(model)).get(part, object)
    return model


def describe(kind: Any) -> str:
    """A type in words: `integer >= 1, <= 512`."""
    try:
        schema = msgspec.json.schema(kind)
    except TypeError:
        return "another value"
    return _words(schema, schema.get("$defs", {}))


_SPELLED = {
    r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$": "of lower-case letters, digits and hyphens, with no hyphen at either end, as `web-1`",
}
_LIMITS = {"minimum": ">= {}", "maximum": "<= {}", "maxLength": "at most {} characters"}


def _words(schema: dict[str, Any], defs: dict[str, Any]) -> str:
    if "$ref" in schema:
        schema = defs.get(schema["$ref"].rpartition("/")[2], {})
    if "anyOf" in schema:
        return " or ".join(_words(one, defs) for one in schema["anyOf"])
    if "enum" in schema:
        return "one of " + ", ".join(str(value) for value in schema["enum"])
    kind = schema.get("type", "another value")
    if kind == "object":
        return "an object with " + (", ".join(schema.get("properties", ())) or "no fields")
    if kind == "array":
        return "a list of: " + _words(schema.get("items", {}), defs)
    limits = [text.format(schema[key]) for key, text in _LIMITS.items() if key in schema]
    if pattern := schema.get("pattern"):
        limits.append(_SPELLED.get(pattern, f"like {pattern}"))
    return ", ".join([kind, *limits])
