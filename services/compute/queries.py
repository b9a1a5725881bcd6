"""What compute is asked and answers from its views: `query.compute.<what>`. Nothing is decided here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from proto.balance import CLUSTER, BalanceShown
from proto.drain import AskDrain, DrainPlan
from proto.placement import AskCpuLimit, CpuLimit, PlacementRules
from services.compute.balance import ask
from services.compute.balance.model import BALANCE
from services.compute.fleet import SILENCE_US_MAX
from services.compute.limits import limit_on
from services.compute.preflight import preflight
from services.compute.views import Views

_limit = msgspec.msgpack.Decoder(AskCpuLimit).decode
_drain = msgspec.msgpack.Decoder(AskDrain).decode


type Answer = BalanceShown | CpuLimit | DrainPlan | PlacementRules


def query(what: str, data: bytes, states: Mapping[str, Any], views: Views) -> Answer:
    """Raises KeyError for unknown words, LookupError for an unknown node.

    A question brings no time with it: a node is online while it is not silent for longer than
    the one that was heard last."""
    if what == "placement":
        return views.rules
    if what == "cpu-limit":
        asked = _limit(data).node
        view = views.nodes.get(asked)
        limit = limit_on(asked, view, views.rules) if view is not None else None
        if limit is None:
            raise LookupError("there is no such node, or it has not said what it has")
        return limit
    if what not in (ask.WHAT, "drain"):
        raise KeyError(what)
    heard = {name: node.heard_us for name, node in views.nodes.items() if node.heard_us}
    latest_us = max(heard.values(), default=0)
    if what == "drain":
        wish = _drain(data)
        plan = preflight(views, wish.node, latest_us, wish.vms)
        if plan is None:
            raise LookupError("there is no such node")
        return plan
    state = states.get(f"{BALANCE.kind}-{CLUSTER}", BALANCE.initial)
    return ask.shown(views.balance, lambda node: heard.get(node, -1) >= latest_us - SILENCE_US_MAX, state, latest_us)
