"""/v1/networks: what NICs are put into. They belong to no project: every viewer sees them, all-project admins change them."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from litestar import Router, delete, get, patch, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from libs.common.messages import Name
from proto import io
from proto.machine import Nic, NicWish
from proto.networks import BridgeName, Description, MtuOrNone, Vlan, faults_of, lack
from services.gateway.auth import Action
from services.gateway.commands import Accepted
from services.gateway.gateway import DEFAULT_PROJECT, Gateway
from services.gateway.http.bodies import Body
from services.gateway.http.door import Asked, asker
from services.gateway.views.networks import NetworkShown
from services.gateway.views.vms import Vm


class NewNetwork(Body):
    """vlan 0: untagged; mtu 0: guests are told none. trusted: guests may use MAC addresses that are not their NIC's."""

    name: Name
    bridge: BridgeName
    vlan: Vlan = 0
    mtu: MtuOrNone = 0
    trusted: bool = False
    description: Description = ""


class NetworkBody(Body):
    """What is left out stays."""

    bridge: BridgeName | None = None
    vlan: Vlan | None = None
    mtu: MtuOrNone | None = None
    trusted: bool | None = None
    description: Description | None = None


class Networks(msgspec.Struct):
    items: list[NetworkShown]


def _shown(gateway: Gateway, request: Asked, network: NetworkShown) -> NetworkShown:
    """With who has it, and whose NICs are in it."""
    known = {n.name: n.capabilities for n in gateway.model.nodes.all.values() if n.capabilities is not None}
    lacking = {name: lack(network.network, can.bridges, can.tap_filter) for name, can in sorted(known.items())}
    having = tuple(name for name, said in lacking.items() if not said)
    ways = {name: next(b for b in known[name].bridges if b.name == network.bridge) for name in having}
    return msgspec.structs.replace(
        network,
        nodes=having,
        without={name: said for name, said in lacking.items() if said},
        faults={name: said for name, bridge in ways.items() if (said := faults_of(bridge))},
        vms=tuple(sorted(vm.name for vm in gateway.model.vms.all.values() if request.user.sees(vm.project) and _in(vm, network))),
    )


def _in(vm: Vm, network: NetworkShown) -> bool:
    nics: Sequence[Nic | NicWish] = vm.nics if vm.nics or vm.disks else vm.nic_wishes
    return any(nic.network == network.name for nic in nics)


@get("", action=Action.READ, summary="List networks")
async def list_networks(request: Asked, gateway: NamedDependency[Gateway]) -> Networks:
    found = sorted(gateway.model.networks.all.values(), key=lambda network: network.name)
    return Networks([_shown(gateway, request, network) for network in found])


@get("/{network:str}", action=Action.READ, summary="Show a network: which nodes have it, and why others have not")
async def show_network(
    request: Asked, gateway: NamedDependency[Gateway], network: FromPath[str]
) -> NetworkShown:
    return _shown(gateway, request, await gateway.network(network))


async def _tell(request: Asked, gateway: Gateway, kind: str, command: io.NetworkCommand) -> Accepted:
    name = command.network
    accepted = await gateway.commands.ask(asker(request, gateway), "io", f"network-{name}", command, DEFAULT_PROJECT)
    if accepted.position == 0:
        gateway.unchanged(accepted.task, kind, name, "", f"nothing had to change on {name}")
    return accepted


@post("", action=Action.NETWORKS, status_code=202, summary="Create a network")
async def create_network(
    request: Asked, gateway: NamedDependency[Gateway], data: JSONBody[NewNetwork]
) -> Accepted:
    command = io.CreateNetwork(
        network=data.name, bridge=data.bridge, vlan=data.vlan, mtu=data.mtu, trusted=data.trusted,
        description=data.description,
    )  # fmt: skip
    return await _tell(request, gateway, "create-network", command)


@patch("/{network:str}", action=Action.NETWORKS, status_code=202, summary="Change a network")
async def set_network(
    request: Asked, gateway: NamedDependency[Gateway], network: FromPath[str], data: JSONBody[NetworkBody]
) -> Accepted:
    """VMs that run keep it as it was until their next start or move."""
    await gateway.network(network)
    command = io.SetNetwork(
        network=network, bridge=data.bridge, vlan=data.vlan, mtu=data.mtu, trusted=data.trusted,
        description=data.description,
    )  # fmt: skip
    return await _tell(request, gateway, "set-network", command)


@delete("/{network:str}", action=Action.NETWORKS, status_code=202, summary="Delete a network that no NIC is in")
async def delete_network(
    request: Asked, gateway: NamedDependency[Gateway], network: FromPath[str]
) -> Accepted:
    await gateway.network(network)
    return await _tell(request, gateway, "delete-network", io.DeleteNetwork(network=network))


router = Router(
    "/v1/networks", route_handlers=[list_networks, show_network, create_network, set_network, delete_network],
    tags=["Networks"],
)  # fmt: skip
