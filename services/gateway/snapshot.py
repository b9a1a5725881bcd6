"""The views as bytes, so that a gateway's start folds only the tail of the log.

A snapshot is thrown away where other code took it: other shapes, other events that are known, or another text of a file that
folds. Sentences are folded too, so the text counts. The log alone is the truth.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import logging
import pkgutil
from collections.abc import Iterator
from functools import cache
from types import ModuleType

import msgspec

from libs.common.log import Snapshot
from proto import space
from services.gateway import model, reclaim, scopes, tasks, views, words
from services.gateway.model import EVENTS, ReadModel
from services.gateway.why import growing, leases

_log = logging.getLogger(__name__)

NAME = "gateway"


def _rooms(package: ModuleType) -> Iterator[ModuleType]:
    """It and all modules in it, by name."""
    yield package
    for found in sorted(pkgutil.iter_modules(package.__path__), key=lambda m: m.name):
        yield importlib.import_module(f"{package.__name__}.{found.name}")


FOLDING = (model, scopes, space, words, reclaim, growing, leases, *_rooms(tasks), *_rooms(views))

_encode = msgspec.msgpack.Encoder().encode


@cache
def schema() -> str:
    """A digest of all that decides what the views hold after the same events."""
    shape = msgspec.json.encode(msgspec.json.schema(ReadModel), order="deterministic")
    known = " ".join(sorted(EVENTS.classes))
    parts = [shape, known.encode(), *(inspect.getsource(module).encode() for module in FOLDING)]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:32]


def take(read: ReadModel) -> Snapshot:
    return Snapshot(NAME, read.position, schema(), _encode(read))


def restore(snapshot: Snapshot | None, head: int) -> ReadModel | None:
    """None where there is no snapshot that this code can read, or it is of a future that the log (its end at `head`) has lost."""
    if snapshot is None or snapshot.schema != schema() or snapshot.position > head:
        return None
    try:
        return msgspec.msgpack.decode(snapshot.data, type=ReadModel)
    except msgspec.DecodeError as error:  # a ValidationError is one
        _log.warning("the snapshot at %d is not readable, the whole log is folded: %s", snapshot.position, error)
        return None
