"""The views as bytes, so that a gateway's start folds only the tail of the log.

A snapshot is thrown away where other code took it: other shapes, other events that are known, or another text of a file that
folds. Sentences are folded too, so the text counts. The log alone is the truth.
"""

from __future__ import annotations

import hashlib
import inspect
import logging
from functools import cache

import msgspec

from libs.common.log import Snapshot
from proto import space
from services.gateway import model, reclaim, scopes, tasks, words
from services.gateway.model import EVENTS, ReadModel
from services.gateway.tasks import snapshots as of_snapshots
from services.gateway.tasks import stories
from services.gateway.views import images, ledgers, networks, nodes, pools, reclaims, snapshots, vms

_log = logging.getLogger(__name__)

NAME = "gateway"
FOLDING = (
    model, scopes, tasks, stories, of_snapshots, space, words, reclaim, images, networks, ledgers, nodes, pools, reclaims,
    snapshots, vms,
)  # fmt: skip

_encode = msgspec.msgpack.Encoder().encode


@cache
def schema() -> str:
    """A digest of all that decides what the views hold after the same events."""
    shape = msgspec.json.encode(msgspec.json.schema(ReadModel), order="deterministic")
    known = " ".join(sorted(EVENTS.classes))
    parts = [shape, known.encode(), *(inspect.getsource(module).encode() for module in FOLDING)]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:32]


def take(views: ReadModel) -> Snapshot:
    return Snapshot(NAME, views.position, schema(), _encode(views))


def restore(snapshot: Snapshot | None, head: int) -> ReadModel | None:
    """None where there is no snapshot that this code can read, or it is of a future that the log (its end at `head`) has lost."""
    if snapshot is None or snapshot.schema != schema() or snapshot.position > head:
        return None
    try:
        return msgspec.msgpack.decode(snapshot.data, type=ReadModel)
    except msgspec.DecodeError as error:  # a ValidationError is one
        _log.warning("the snapshot at %d is not readable, the whole log is folded: %s", snapshot.position, error)
        return None
