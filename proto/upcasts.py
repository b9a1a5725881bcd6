"""How an event of an older version becomes the next: one step each, from decoded map to decoded map.

    def vm_started_v1(body: dict[str, Any]) -> dict[str, Any]:
        return body | {"pcpus": ()}

    UPCASTS = {("vm_started", 1): vm_started_v1}

Only the newest Struct exists in code; an upcast is never removed. Today every event has one version only.

A downcast is the step back, needed while a cluster may not be finalized at the protocol that brought the version (Event.SINCE):
until then events are written as the version before. It goes once PROTOCOL_MIN has come to that protocol.

    def vm_started_v2_back(body: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in body.items() if name != "pcpus"}

    DOWNCASTS = {("vm_started", 2): vm_started_v2_back}
"""

from __future__ import annotations

from libs.common.registry import Downcast, Upcast

UPCASTS: dict[tuple[str, int], Upcast] = {}
DOWNCASTS: dict[tuple[str, int], Downcast] = {}
