"""Sentences for the events of networks. Pure."""

from __future__ import annotations

from typing import Any

from proto import io


def of_network(event: Any) -> str:
    match event:
        case io.NetworkCreated():
            return f"created: {_said(event)}"
        case io.NetworkChanged():
            return f"changed to {_said(event)}"
        case io.NetworkDeleted():
            return "deleted; no NIC was in it"
        case _:
            return ""


def _said(event: io.NetworkCreated | io.NetworkChanged) -> str:
    is_now = event.wiring
    words = [f"bridge {is_now.bridge}", f"VLAN {is_now.vlan}" if is_now.vlan else "untagged"]
    words += [f"MTU {is_now.mtu}"] if is_now.mtu else []
    words += ["guests may use other MAC addresses than their own"] if is_now.trusted else []
    return ", ".join(words)
