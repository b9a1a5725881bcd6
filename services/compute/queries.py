"""What compute is asked and answers from its views: `query.compute.<what>`. Nothing is decided here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from proto.balance import CLUSTER, BalanceShown
from services.compute.balance import ask
from services.compute.balance.model import BALANCE
from services.compute.fleet import SILENCE_US_MAX
from services.compute.views import Views


def query(what: str, data: bytes, states: Mapping[str, Any], views: Views) -> BalanceShown:
    """Raises KeyError for unknown words. A question brings no time with it: a node is online while it is not silent for longer than
    the one that was heard last."""
    if what != ask.WHAT:
        raise KeyError(what)
    heard = {name: node.heard_us for name, node in views.nodes.items() if node.heard_us}
    latest_us = max(heard.values(), default=0)
    state = states.get(f"{BALANCE.kind}-{CLUSTER}", BALANCE.initial)
    return ask.shown(views.balance, lambda node: heard.get(node, -1) >= latest_us - SILENCE_US_MAX, state, latest_us)
