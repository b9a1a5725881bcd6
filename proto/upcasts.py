"""How an event of an older version becomes the next: one step each, from decoded map to decoded map.

    def vm_started_v1(body: dict[str, Any]) -> dict[str, Any]:
        return body | {"pcpus": ()}

    UPCASTS = {("vm_started", 1): vm_started_v1}

Only the newest Struct exists in code; an upcast is never removed.

A downcast is the step back, needed while a cluster may not be finalized at the protocol that brought the version (Event.SINCE):
until then events are written as the version before. It goes once PROTOCOL_MIN has come to that protocol.

    def vm_started_v2_back(body: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in body.items() if name != "pcpus"}

    DOWNCASTS = {("vm_started", 2): vm_started_v2_back}

A map may lack what has a default: it came later to the version, or was left out.
"""

from __future__ import annotations

from typing import Any

from libs.common.registry import Downcast, Renamed, Upcast

WIRING = ("bridge", "vlan", "mtu", "trusted", "description")


def network_v1(body: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in body.items() if name not in WIRING}
    return kept | {"wiring": {name: body[name] for name in WIRING if name in body}}


def network_v2_back(body: dict[str, Any]) -> dict[str, Any]:
    wiring: dict[str, Any] = body["wiring"]
    return {name: value for name, value in body.items() if name != "wiring"} | wiring


UPCASTS: dict[tuple[str, int], Upcast] = {
    ("move_planned", 1): Renamed("origin", "source"),
    ("memory_released", 1): Renamed("memory_mib", "released_mib"),
    ("network_created", 1): network_v1,
    ("network_changed", 1): network_v1,
    ("fence_failed", 1): Renamed("next_us", "next_at_us"),
}
DOWNCASTS: dict[tuple[str, int], Downcast] = {
    ("move_planned", 2): Renamed("source", "origin"),
    ("memory_released", 2): Renamed("released_mib", "memory_mib"),
    ("network_created", 2): network_v2_back,
    ("network_changed", 2): network_v2_back,
    ("fence_failed", 2): Renamed("next_at_us", "next_us"),
}
