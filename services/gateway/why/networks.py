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
    words = [f"bridge {event.bridge}", f"VLAN {event.vlan}" if event.vlan else "untagged"]
    words += [f"MTU {event.mtu}"] if event.mtu else []
    words += ["guests may use other MAC addresses than their own"] if event.trusted else []
    return ", ".join(words)
