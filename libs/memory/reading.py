"""The ledgers' events from what the gateway shows of the log, for whoever proves it from outside."""

from __future__ import annotations

from typing import Any

import msgspec

from libs.common.messages import tag_of
from libs.common.registry import members
from proto.memory import LedgerEvent
from proto.upcasts import UPCASTS

_KINDS = {tag_of(kind): kind for kind in members(LedgerEvent)}


def event_of(type: str, v: int, data: Any) -> Any:
    """The event of that version in today's words, None for one that is not a ledger's. Raises msgspec.ValidationError for one that
    cannot be read, KeyError for one of a release to come."""
    kind = _KINDS.get(type)
    if kind is None:
        return None
    for version in range(v, kind.VERSION):
        data = UPCASTS[(type, version)](data)
    if v > kind.VERSION:
        raise KeyError(f"{type} of version {v}")
    return msgspec.convert(data, kind)
