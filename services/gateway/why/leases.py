"""Leases of nodes and high availability as a whole, in words. Pure."""

from __future__ import annotations

from typing import Any

from proto.lease import (
    HaArmed,
    HaDisarmed,
    HaHeld,
    HaReleased,
    HaSet,
    Isolated,
    LeaseForgotten,
    LeaseTaken,
    NodeIsolated,
    NodeLost,
    NodeOffProven,
    NodePathsNoted,
    NodeReturned,
    NodeSuspected,
    NodeTrusted,
    ProofKind,
    Reserve,
    Silence,
    TermBegan,
)

PROVEN = {
    ProofKind.FENCE: "a device switched it off",
    ProofKind.LEASE: "its lease is spent",
    ProofKind.ACKNOWLEDGED: "by its own word",
    ProofKind.OPERATOR: "by somebody's word",
    ProofKind.CLEAN: "it came back and runs nothing",
}


def of_leases(event: Any) -> str:
    return _of_node(event) or _of_whole(event)


def _of_node(event: Any) -> str:
    match event:
        case LeaseTaken():
            renewed = f", renewed by {', '.join(event.pools)} too" if event.pools else ", renewed by requests alone"
            boot = f" (boot {event.boot_id[:8]}{renewed})" if event.boot_id else ""
            return f"the grantor of term {event.term} grants {event.node} its lease{boot}"
        case NodeSuspected(unread=pools) if pools:
            said = f"nobody can read the record of {event.node} in pool {', '.join(pools)}, by which it may be renewing its lease"
            return f"{said}: that lease cannot be proven to be spent; {help_unread(event.node)}"
        case NodeSuspected():
            planned = f" ({event.planned}: that counts towards no storm)" if event.planned else ""
            return f"{event.node} is suspected: {said_silences(event.silences)}; nothing is done to its VMs{planned}"
        case NodeTrusted():
            return f"{event.node} asks for its lease again"
        case NodeIsolated():
            then = f"its VMs are asked for by letter {event.letter}" if event.letter else "its VMs run on there"
            return f"{event.node} lives and cannot be reached: {said_silences(event.silences)}, and its record moves; {then}"
        case NodeLost():
            return f"{event.node} is lost, and its epoch {event.epoch} over: {PROVEN[event.proof.kind]} ({event.proof.sentence})"
        case NodeOffProven():
            return f"nothing at all of {event.node} runs: {PROVEN[event.proof.kind]} ({event.proof.sentence})"
        case NodeReturned(held=True):
            return f"{event.node} holds a lease of epoch {event.epoch}, which began after what the log was restored to: it goes on"
        case NodeReturned():
            return f"{event.node} has ended what was no longer its own, and may have a lease of epoch {event.epoch}"
        case NodePathsNoted(pools=(), networks=(), mute=False):
            return f"{event.node} has its storage, its networks and its watchdog again"
        case NodePathsNoted():
            mute = ["its watchdog does not answer, so that nobody there pauses or ends what it guards"] if event.mute else []
            stuck = [f"its record in pool {pool} is not written, or nobody can read it" for pool in event.pools]
            then = "; its VMs are to move away" if event.move else ""
            return f"{event.node} is heard, but {'; '.join([*mute, *stuck, *event.networks])}{then}"
        case LeaseForgotten():
            return f"{event.node} left the cluster: its lease is none any more"
        case _:
            return ""


def help_unread(node: str) -> str:
    """What helps a node that cannot be proven lost."""
    return f"bring the pool back, or look at {node} and say that it is off (asvctl ha confirm-off {node} --reason …)"


def said_silences(silences: tuple[Silence, ...]) -> str:
    return "; ".join(silence.sentence or f"{silence.path} is silent" for silence in silences)


def _of_whole(event: Any) -> str:
    match event:
        case TermBegan():
            waits = f"no lease counts as spent for {event.wait_us / 1e6:.2f} s"
            return f"{event.holder} grants leases from now on, in term {event.term}; {waits}"
        case HaSet():
            return f"high availability was set: {_settings(event)}"
        case HaDisarmed():
            until = "" if event.until_us else ", until it is armed again"
            return f"high availability was disarmed{until}: {event.reason}"
        case HaArmed():
            return "high availability is armed again" + (", as the time of its disarming is over" if event.over else "")
        case HaHeld():
            return f"nothing is declared lost by itself: {event.sentence} ({event.remedy})"
        case HaReleased():
            return "nodes are declared lost again where it is proven"
        case _:
            return ""


def _settings(event: HaSet) -> str:
    now = event.settings
    room = {
        Reserve.NODES: f"room is kept for {now.reserve_nodes} nodes",
        Reserve.PERCENT: f"{now.reserve_pct} % of memory is kept",
        Reserve.NONE: "no room is kept",
    }[now.reserve]
    away = "asked for" if now.isolated == Isolated.EVACUATE else "left"
    return (
        f"leases of {30 if now.tolerant else 5} s, {room}, VMs of isolated nodes are {away} (after {now.isolated_s:g} s), at most"
        f" {now.lost_max} nodes lost within {now.window_s:g} s, {now.starts_max} restarts at once"
    )
