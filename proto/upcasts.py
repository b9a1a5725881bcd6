"""How an event of an older version becomes the next: one step each, from decoded map to decoded map.

    def vm_started_v1(body: dict[str, Any]) -> dict[str, Any]:
        return body | {"pcpus": ()}

    UPCASTS = {("vm_started", 1): vm_started_v1}

Only the newest Struct exists in code; an upcast is never removed. Today every event has one version only.
"""

from __future__ import annotations

from libs.common.registry import Upcast

UPCASTS: dict[tuple[str, int], Upcast] = {}
