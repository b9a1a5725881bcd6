"""What people asked of high availability, as tasks. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proto.lease import HaArmed, HaDisarmed, HaSet, NodeLost, NodeOffProven

if TYPE_CHECKING:
    from services.gateway.tasks.stories import _Story


def leases(s: _Story) -> bool:
    if not isinstance(s.event, HaSet | HaDisarmed | HaArmed | NodeLost | NodeOffProven) or not s.meta.actor.startswith("user:"):
        return False
    match s.event:
        case HaSet():
            s.at_once("ha", "cluster", "high availability has its new settings")
        case HaDisarmed(reason=reason):
            s.at_once("ha", "cluster", f"nothing is declared lost or restarted from now on: {reason}")
        case HaArmed():
            s.at_once("ha", "cluster", "high availability is armed")
        case NodeLost(node=node) | NodeOffProven(node=node):
            s.at_once("confirm-off", node, f"{node} is lost by your word: what it ran may start elsewhere")
    return True
