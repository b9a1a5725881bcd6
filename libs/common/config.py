"""A process's settings: one frozen Struct, read once from the environment, wrong keys refused.

    class Config(msgspec.Struct, frozen=True, kw_only=True):
        home: Path
        nats_url: str = ""
        quota: tuple[str, ...] = ()

    config = load(Config, os.environ)        # ASV_HOME, ASV_NATS_URL, ASV_QUOTA=a,b

A field `x` is read from `ASV_X`; for text also from the file that `ASV_X_FILE` names (a secret that others could see in the
environment belongs there). Every other `ASV_…` key is a mistake, unless another process reads it (`ELSEWHERE`).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

import msgspec

PREFIX = "ASV_"

ELSEWHERE = frozenset(
    {
        "ASV_HOME",
        "ASV_API",
        "ASV_TOKEN",
        "ASV_TOKEN_FILE",
        "ASV_POSTGRES_DSN",
        "ASV_NATS_URL",
        "ASV_LOG_LEVEL",
        "ASV_OTLP_ENDPOINT",
        "ASV_TRACE_RATIO",
        "ASV_LOG_ARCHIVE",
    }
)
"""Keys that people set for the whole machine: known to every process, though not each one reads them."""


class BadConfig(Exception):
    """A setting is missing, wrong or unknown; the text has one sentence per mistake."""


def load[C: msgspec.Struct](kind: type[C], environ: Mapping[str, str], known: Iterable[str] = ()) -> C:
    """The settings of this process. `known`: further keys that are no mistake here. Raises BadConfig."""
    fields = {PREFIX + f.name.upper(): f for f in msgspec.structs.fields(kind)}
    wrong: list[str] = []
    found: dict[str, Any] = {}
    for key, field in fields.items():
        try:
            text = _text(key, environ, fields)
        except OSError as error:
            wrong.append(f"{key}_FILE={environ[key + '_FILE']}: cannot be read ({error.strerror})")
            continue
        if text is not None:
            try:
                found[field.name] = _value(text, field.type)
            except (msgspec.ValidationError, ValueError) as error:
                wrong.append(f"{key}={text!r}: {_plain(error)}")
        elif field.required:
            wrong.append(f"{key} is not set, and there is no default")
    wrong += _strangers(environ, set(fields) | ELSEWHERE | set(known))
    if wrong:
        raise BadConfig("; ".join(wrong))
    return kind(**found)


def _text(key: str, environ: Mapping[str, str], fields: Mapping[str, Any]) -> str | None:
    file_key = key + "_FILE"
    if key in environ:
        return environ[key]
    if file_key in environ and file_key not in fields:
        return Path(environ[file_key]).read_text().strip()
    return None


def _value(text: str, kind: Any) -> Any:
    """Text as the field's type: numbers, yes/no, paths, comma lists; an empty text is an empty list."""
    if get_origin(kind) in (Union, UnionType):
        kinds = [k for k in get_args(kind) if k is not type(None)]
        return None if not text and len(kinds) < len(get_args(kind)) else _value(text, kinds[0])
    if kind is Path:
        return Path(text).expanduser()
    if get_origin(kind) is tuple:
        inner = get_args(kind)[0]
        return tuple(_value(part.strip(), inner) for part in text.split(",") if part.strip())
    if kind is bool:
        text = {"yes": "true", "on": "true", "no": "false", "off": "false"}.get(text.lower(), text.lower())
    return msgspec.convert(text, kind, strict=False)


def _plain(error: Exception) -> str:
    """What would be right, without the library's path syntax."""
    return str(error).split(" - at `")[0]


def _strangers(environ: Mapping[str, str], known: set[str]) -> list[str]:
    wrong = []
    for key in sorted(environ):
        if not key.startswith(PREFIX) or key in known or key.removesuffix("_FILE") in known:
            continue
        near = difflib.get_close_matches(key, known, n=1)
        wrong.append(f"{key} is not a setting" + (f"; did you mean {near[0]}?" if near else ""))
    return wrong
