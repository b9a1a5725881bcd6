"""What compute is asked and answers from its views: `query.compute.<what>`. Nothing is decided here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from proto.balance import CLUSTER, BalanceShown
from proto.drain import AskDrain, DrainPlan
from proto.placement import PlacementRules
from services.compute.balance import ask
from services.compute.balance.model import BALANCE
from services.compute.fleet import SILENCE_US_MAX
from services.compute.preflight import preflight
from services.compute.views import Views

_drain = msgspec.msgpack.Decoder(AskDrain).decode


def query(what: str, data: bytes, states: Mapping[str, Any], views: Views) -> BalanceShown | DrainPlan | PlacementRules:
    """Raises KeyError for unknown words, LookupError for an unknown node.

    A question brings no time with it: a node is online while it is not silent for longer than
    the one that was heard last."""
    if what == "placement":
        return views.rules
    if what not in (ask.WHAT, "drain"):
        raise KeyError(what)
    heard = {name: node.heard_us for name, node in views.nodes.items() if node.heard_us}
    latest_us = max(heard.values(), default=0)
    if what == "drain":
        asked = _drain(data)
        plan = preflight(views, asked.node, latest_us, asked.vms)
        if plan is None:
            raise LookupError("there is no such node")
        return plan
    state = states.get(f"{BALANCE.kind}-{CLUSTER}", BALANCE.initial)
    return ask.shown(views.balance, lambda node: heard.get(node, -1) >= latest_us - SILENCE_US_MAX, state, latest_us)
