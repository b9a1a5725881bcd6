"""The life of one network (stream `network-NAME`). Pure.

              create              set
NoNetwork ──────────────▶ There ◀──────┐
    ▲                     │   └────────┘
    └──────── delete ─────┘
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from msgspec.structs import replace

from libs.common.decider import Decider, Refused
from libs.common.messages import Value
from proto.io import (
    CreateNetwork,
    DeleteNetwork,
    NetworkChanged,
    NetworkCommand,
    NetworkCreated,
    NetworkDeleted,
    NetworkEvent,
    Refusal,
    SetNetwork,
)
from proto.networks import MTU_MAX, MTU_MIN, USER, Network, network_of, wiring_of

NAMES_MAX = 5
"""VMs named in one sentence."""


class State(Value, tag=True, kw_only=True):
    """version: events folded so far."""

    version: int = 0


class NoNetwork(State, kw_only=True):
    """Never created, or deleted."""


class There(State, kw_only=True):
    network: Network


NetworkState = NoNetwork | There


def decide(command: NetworkCommand, state: NetworkState) -> Sequence[NetworkEvent]:
    if command.network == USER:
        said = f"{USER} is the network that is always there: each VM alone, and nothing behind it"
        raise Refused(Refusal.BAD_NETWORK, said, "take another name")
    match command:
        case CreateNetwork():
            return _create(command, state)
        case SetNetwork():
            return _set(command, _there(command.network, state))
        case DeleteNetwork():
            return _delete(command, _there(command.network, state))


def _there(name: str, state: NetworkState) -> Network:
    if isinstance(state, NoNetwork):
        raise Refused(Refusal.NETWORK_UNKNOWN, f"there is no network named {name}", "name one that exists, or create it")
    return state.network


def _create(command: CreateNetwork, state: NetworkState) -> Sequence[NetworkEvent]:
    wish = Network(
        name=command.network, bridge=command.bridge, vlan=command.vlan, mtu=command.mtu, trusted=command.trusted,
        description=command.description,
    )  # fmt: skip
    if isinstance(state, There):
        if state.network == wish:
            return ()
        said = f"the network {command.network} exists ({_said(state.network)})"
        raise Refused(Refusal.NETWORK_KNOWN, said, "take another name, or change that one")
    _check(wish, command.others)
    return [NetworkCreated(network=wish.name, wiring=wiring_of(wish))]


def _set(command: SetNetwork, network: Network) -> Sequence[NetworkEvent]:
    wish = changed(network, command)
    if wish == network:
        return ()
    _check(wish, command.others)
    return [NetworkChanged(network=wish.name, wiring=wiring_of(wish))]


def changed(network: Network, command: SetNetwork) -> Network:
    """As it would be."""
    return replace(
        network,
        bridge=network.bridge if command.bridge is None else command.bridge,
        vlan=network.vlan if command.vlan is None else command.vlan,
        mtu=network.mtu if command.mtu is None else command.mtu,
        trusted=network.trusted if command.trusted is None else command.trusted,
        description=network.description if command.description is None else command.description,
    )


def _check(wish: Network, others: Sequence[str]) -> None:
    if wish.mtu and not MTU_MIN <= wish.mtu <= MTU_MAX:
        said = f"an MTU of {wish.mtu} bytes is asked for"
        raise Refused(Refusal.BAD_NETWORK, said, f"{MTU_MIN} to {MTU_MAX}, or 0: guests are told none and take 1500")
    if others:
        said = f"{', '.join(others[:NAMES_MAX])} is on bridge {wish.bridge} with {_vlan(wish)} already"
        raise Refused(Refusal.NETWORK_KNOWN, said, "use that network, or another VLAN or bridge")


def _delete(command: DeleteNetwork, network: Network) -> Sequence[NetworkEvent]:
    if command.used_by:
        named = ", ".join(command.used_by[:NAMES_MAX])
        more = f" and {len(command.used_by) - NAMES_MAX} more" if len(command.used_by) > NAMES_MAX else ""
        said = f"NICs of {named}{more} are in the network {network.name}"
        raise Refused(Refusal.NETWORK_IN_USE, said, "detach those NICs, or delete those VMs, first")
    return [NetworkDeleted(network=network.name)]


def _said(network: Network) -> str:
    return f"bridge {network.bridge}, {_vlan(network)}"


def _vlan(network: Network) -> str:
    return f"VLAN {network.vlan}" if network.vlan else "no VLAN"


def evolve(state: NetworkState, event: NetworkEvent) -> NetworkState:
    """Never refuses, never raises."""
    version = state.version + 1
    match event:
        case NetworkCreated() | NetworkChanged():
            return There(version=version, network=network_of(event))
        case NetworkDeleted():
            return NoNetwork(version=version)


NETWORK: Decider[NetworkCommand, NetworkState, NetworkEvent] = Decider(
    kind="network",
    commands=get_args(NetworkCommand),
    events=get_args(NetworkEvent),
    state=NetworkState,
    key=lambda command: command.network,
    initial=NoNetwork(),
    decide=decide,
    evolve=evolve,
)
