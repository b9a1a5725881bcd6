"""NICs in networks: what a wish, or a change of one, comes to with the networks as they are now. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from msgspec.structs import replace

from libs.common.decider import Refused
from proto.io import AttachNic, Refusal, SetNic
from proto.machine import Nic, NicKind, NicModel, NicWish
from proto.networks import USER, Network, known_names
from services.io.devices import SLOT_FIRST, mac_of

type Networks = Mapping[str, Network]
"""name -> what it is now"""


def by_name(networks: Iterable[Network]) -> Networks:
    return {network.name: network for network in networks}


def make_nics(vm: str, wishes: Sequence[NicWish], slot_first: int, networks: Networks) -> tuple[Nic, ...]:
    """slot_first: how many slots disks have taken. Of a network that is not there the NIC says the name alone."""
    return tuple(
        make_nic(vm, wish, number, SLOT_FIRST + slot_first + number, networks) for number, wish in enumerate(wishes)
    )


def make_nic(vm: str, wish: NicWish, number: int, slot: int, networks: Networks) -> Nic:
    made = Nic(
        name=f"nic{number}", kind=NicKind.USER, mac=mac_of(vm, number), slot=slot, model=wish.model,
        network=wish.network, queues=wish.queues,
    )  # fmt: skip
    return resolved(made, networks)


def resolved(nic: Nic, networks: Networks, runs: bool = False) -> Nic:
    """The NIC in its network as that is now. runs: its guest was told an MTU and keeps it, wherever it goes."""
    if nic.network == USER:
        return replace(nic, kind=NicKind.USER, bridge="", vlan=0, mtu=0, trusted=False)
    found = networks.get(nic.network)
    if found is None:
        return nic
    mtu = nic.mtu if runs else found.mtu
    return replace(nic, kind=NicKind.BRIDGE, bridge=found.bridge, vlan=found.vlan, mtu=mtu, trusted=found.trusted)


def missing(nics: Iterable[Nic | NicWish], networks: Networks) -> tuple[str, ...]:
    """Names of networks that there are not."""
    return tuple(sorted({n.network for n in nics if n.network != USER and n.network not in networks}))


def sentence(vm: str, names: Sequence[str], others: Sequence[str]) -> str:
    """others: names of some that there are."""
    return f"there is no network {', '.join(names)}, which a NIC of {vm} is to be in; {known_names(tuple(others))}"


def check_known(vm: str, nics: Iterable[Nic | NicWish], networks: Networks, others: Sequence[str]) -> None:
    """Raises Refused: NETWORK_UNKNOWN."""
    if lacking := missing(nics, networks):
        raise Refused(
            Refusal.NETWORK_UNKNOWN, sentence(vm, lacking, others), "name one that exists (asvctl network ls), or create it"
        )


def wanted(command: AttachNic) -> NicWish:
    """Raises Refused: BAD_DEVICE."""
    wish = NicWish(network=command.network, model=command.model, queues=command.queues)
    if said := queues_fault(wish, command.known.vcpus_max):
        raise Refused(Refusal.BAD_DEVICE, *said)
    return wish


def queues_fault(wish: NicWish, vcpus_max: int) -> tuple[str, str] | None:
    """What is wrong with so many queues, and what would be right."""
    if wish.queues == 1:
        return None
    if wish.model is not NicModel.VIRTIO:
        return f"{wish.queues} queues are asked for of a NIC of the model {wish.model}", "1, or the model virtio"
    if wish.network == USER:
        return f"{wish.queues} queues are asked for in the network {USER}", "1, or another network"
    if vcpus_max and wish.queues > vcpus_max:
        said = f"{wish.queues} queues are asked for of a VM that can have {vcpus_max} vCPUs at most"
        return said, f"at most {vcpus_max}: each is served by a vCPU"
    return None


def set_nic(vm: str, nic: Nic, command: SetNic, running: bool) -> Nic:
    """As it is to be. Raises Refused."""
    if command.link is not None:
        nic = replace(nic, link=command.link)
    if command.network is None or command.network == nic.network:
        return nic
    networks = by_name(command.known.networks)
    moved = replace(nic, network=command.network)
    check_known(vm, [moved], networks, command.known.others)
    if running:
        said = f"{nic.name} of {vm} is in the network {nic.network}, and QEMU cannot change that while the VM runs"
        raise Refused(Refusal.NOT_STOPPED, said, f"detach it and attach one in {command.network}, or stop {vm} first")
    return resolved(moved, networks)
