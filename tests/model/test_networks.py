"""Networks are objects: created, changed, deleted; what NICs in them come to; which nodes have them."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from libs.common.messages import NodeId, Recorded, VmId
from libs.common.testing import Spec
from proto.compute import Capabilities, Filter, Placement, Rejected
from proto.examples import example
from proto.io import (
    AttachNic,
    CreateNetwork,
    DeleteNetwork,
    DevicesChanged,
    DevicesDenied,
    DevicesGranted,
    DevicesRevoked,
    GrantDevices,
    Known,
    NetworkChanged,
    NetworkCreated,
    NetworkDeleted,
    Refusal,
    SetNetwork,
    SetNic,
    VmPhase,
)
from proto.machine import Nic, NicKind, NicModel, NicWish
from proto.networks import Bridge, Network, Wiring, lack
from services.compute.networks import Networks
from services.compute.reasons import explain
from services.io.model import DEVICES
from services.io.networks import NETWORK
from services.io.views import Views, enrich

A, N1, N2 = VmId("a"), NodeId("n1"), NodeId("n2")
BLUE = Network(name="blue", bridge="lan", vlan=5, mtu=1400)
CREATE = CreateNetwork(network="blue", bridge="lan", vlan=5, mtu=1400)
CREATED = NetworkCreated(network="blue", wiring=Wiring(bridge="lan", vlan=5, mtu=1400))
RECORDED = Recorded(1, "network-blue", 1, "network_created", 1, 0, b"", b"")
network, devices = Spec(NETWORK), Spec(DEVICES)


# --- the object -----------------------------------------------------------------------------------------------------------


def test_a_network_is_created_changed_and_deleted_and_may_come_again() -> None:
    network.given().when(CREATE).then(CREATED).twice()
    change = SetNetwork(network="blue", vlan=6, trusted=True)
    changed = NetworkChanged(network="blue", wiring=Wiring(bridge="lan", vlan=6, mtu=1400, trusted=True))
    network.given(CREATED).when(change).then(changed).twice()
    network.given(CREATED, changed).when(DeleteNetwork(network="blue")).then(NetworkDeleted(network="blue"))
    network.given(CREATED, NetworkDeleted(network="blue")).when(CREATE).then(CREATED)


def test_what_cannot_be_a_network_is_refused() -> None:
    network.given().when(replace(CREATE, network="user")).refused(Refusal.BAD_NETWORK)
    network.given().when(replace(CREATE, mtu=600)).refused(Refusal.BAD_NETWORK)
    network.given(CREATED).when(SetNetwork(network="blue", mtu=1279)).refused(Refusal.BAD_NETWORK)
    network.given().when(replace(CREATE, others=("old",))).refused(Refusal.NETWORK_KNOWN)
    network.given(CREATED).when(SetNetwork(network="blue", vlan=7, others=("red",))).refused(Refusal.NETWORK_KNOWN)
    network.given(CREATED).when(replace(CREATE, vlan=9)).refused(Refusal.NETWORK_KNOWN)
    network.given().when(SetNetwork(network="blue", vlan=7)).refused(Refusal.NETWORK_UNKNOWN)
    network.given().when(DeleteNetwork(network="blue")).refused(Refusal.NETWORK_UNKNOWN)
    used = network.given(CREATED).when(DeleteNetwork(network="blue", used_by=tuple("abcdefg"))).refused(Refusal.NETWORK_IN_USE)
    assert used.refusal is not None and "a, b, c, d, e and 2 more" in used.refusal.sentence


def test_io_knows_who_is_in_a_network_and_which_are_alike() -> None:
    views = Views()
    for event in (CREATED, NetworkCreated(network="red", wiring=Wiring(bridge="lan", vlan=6))):
        views.apply(RECORDED, event)
    assert enrich(replace(CREATE, network="green"), views, 0).others == ("blue",)
    assert enrich(CREATE, views, 0).others == (), "a network is not in its own way"
    assert enrich(SetNetwork(network="red", vlan=5), views, 0).others == ("blue",)
    assert enrich(SetNetwork(network="red", mtu=1500), views, 0).others == ()
    views.apply(RECORDED, replace(example_defined("w"), nics=(NicWish(network="blue"),)))
    assert enrich(DeleteNetwork(network="blue"), views, 0).used_by == ("w",), "defined, never started"
    views.apply(RECORDED, DevicesGranted(vm=VmId("w"), node=N1, generation=1, disks=(), nics=()))
    assert enrich(DeleteNetwork(network="blue"), views, 0).used_by == (), "it has no NIC there any more"


def example_defined(vm: str):  # type: ignore[no-untyped-def]
    from proto.compute import VmDefined

    return replace(example(VmDefined), vm=VmId(vm), disks=())


# --- NICs in it -----------------------------------------------------------------------------------------------------------

GRANT = GrantDevices(vm="a", node=N1, generation=1, nics=(NicWish(network="blue", queues=2),), networks=(BLUE,))
RUNS = Known(phase=VmPhase.RUNNING, networks=(BLUE,), vcpus_max=4)


def granted(command: GrantDevices = GRANT, *given: object) -> DevicesGranted:
    (event,) = devices.given(*given).when(command).events  # type: ignore[arg-type]
    assert isinstance(event, DevicesGranted)
    return event


def test_each_start_takes_the_network_as_it_is_then() -> None:
    first = granted()
    (nic,) = first.nics
    assert (nic.kind, nic.network, nic.bridge, nic.vlan, nic.mtu, nic.trusted, nic.queues) == (
        NicKind.BRIDGE, "blue", "lan", 5, 1400, False, 2,
    )  # fmt: skip
    revoked = DevicesRevoked(vm=A, generation=1)
    other = replace(BLUE, bridge="wan", vlan=8, mtu=9000, trusted=True)
    (later,) = granted(replace(GRANT, generation=2, networks=(other,)), first, revoked).nics
    assert later == replace(nic, bridge="wan", vlan=8, mtu=9000, trusted=True)


def test_a_guest_that_moves_keeps_the_mtu_it_was_told() -> None:
    first = granted()
    other = replace(BLUE, bridge="wan", mtu=9000)
    (moved,) = granted(replace(GRANT, node=N2, generation=2, networks=(other,)), first).nics
    assert (moved.bridge, moved.mtu) == ("wan", 1400)


def test_a_start_in_a_network_that_is_gone_is_denied_with_those_there_are() -> None:
    bare = replace(GRANT, networks=(), others=("green", "red"))
    (event,) = devices.given().when(bare).events
    assert isinstance(event, DevicesDenied)
    assert event.sentence == "there is no network blue, which a NIC of a is to be in; there are user, green, red"
    (event,) = devices.given(granted(), DevicesRevoked(vm=A, generation=1)).when(replace(bare, generation=2)).events
    assert isinstance(event, DevicesDenied)


def test_a_vm_found_running_has_what_it_has() -> None:
    has = Nic(name="nic0", kind=NicKind.BRIDGE, mac="52:54:00:00:00:01", slot=3, network="gone", bridge="lan", vlan=3)
    (event,) = devices.given().when(replace(GRANT, networks=(), running=True, has_nics=(has,))).events
    assert isinstance(event, DevicesGranted) and event.nics == (has,)


def test_a_nic_is_attached_by_network() -> None:
    attach = AttachNic(vm="a", network="blue", model=NicModel.VIRTIO, queues=4, known=RUNS)
    (event,) = devices.given(granted()).when(attach).events
    assert isinstance(event, DevicesChanged)
    assert (event.nics[-1].bridge, event.nics[-1].vlan, event.nics[-1].queues) == ("lan", 5, 4)
    unknown = replace(attach, network="green", known=replace(RUNS, others=("blue",)))
    said = devices.given(granted()).when(unknown).refused(Refusal.NETWORK_UNKNOWN).refusal
    assert said is not None and "there are user, blue" in said.sentence


@pytest.mark.parametrize(("change", "says"), [({"queues": 5}, "4 vCPUs"), ({"queues": 2, "model": NicModel.E1000E}, "e1000e")])
def test_queues_that_cannot_be_are_refused(change: dict[str, object], says: str) -> None:
    attach = replace(AttachNic(vm="a", network="blue", known=RUNS), **change)
    said = devices.given(granted()).when(attach).refused(Refusal.BAD_DEVICE).refusal
    assert said is not None and says in said.sentence


def test_a_nic_changes_its_network_at_rest_only() -> None:
    first, red = granted(), Network(name="red", bridge="wan")
    known = replace(RUNS, networks=(BLUE, red))
    to_red = SetNic(vm="a", name="nic0", network="red", known=known)
    devices.given(first).when(to_red).refused(Refusal.NOT_STOPPED)
    devices.given(first).when(replace(to_red, network="blue")).nothing()
    resting = replace(to_red, known=replace(known, phase=VmPhase.STOPPED))
    (event,) = devices.given(first, DevicesRevoked(vm=A, generation=1)).when(resting).twice().events
    assert isinstance(event, DevicesChanged)
    assert (event.nics[0].network, event.nics[0].bridge, event.nics[0].vlan, event.nics[0].mtu) == ("red", "wan", 0, 0)
    devices.given(first).when(replace(to_red, network="green")).refused(Refusal.NETWORK_UNKNOWN)


# --- where it is ----------------------------------------------------------------------------------------------------------


def test_why_a_node_has_not_a_network() -> None:
    lan = Bridge(name="lan", mtu=1500)
    assert lack(BLUE, (lan,), True) == ""
    assert lack(BLUE, (Bridge(name="docker0"),), True) == "no bridge lan, on which network blue lies; it has docker0"
    assert lack(BLUE, (), True).endswith("it has none")
    assert lack(replace(BLUE, mtu=9000), (lan,), True) == (
        "its bridge lan carries 1500 bytes, network blue has an MTU of 9000"
    )
    assert "kernel cannot keep" in lack(BLUE, (lan,), False)
    assert "kernel cannot keep" in lack(Network(name="x", bridge="lan"), (lan,), False), "anti-spoofing needs it, too"
    assert lack(Network(name="x", bridge="lan", trusted=True), (lan,), False) == ""


def test_a_wish_follows_the_networks_definition() -> None:
    known, can = Networks(), replace(example(Capabilities), bridges=(Bridge(name="lan"),), tap_filter=True)
    nics = (NicWish(), NicWish(network="blue"))
    assert known.missing(nics) == ("blue",)
    assert "there is no network blue; there is only user" in known.needed(nics)[0].reason
    assert known.apply(CREATED) and known.had(can, ["blue"]) == ("blue",)
    assert known.apply(NetworkChanged(network="blue", wiring=Wiring(bridge="wan"))) and known.had(can, ["blue"]) == ()
    assert known.apply(NetworkDeleted(network="blue")) and known.missing(nics) == ("blue",)


def test_the_refusal_names_the_nodes_and_what_they_have() -> None:
    said = lack(BLUE, (Bridge(name="docker0"),), True)
    sentence, remedy = explain(Placement(policy="p", rejected=(Rejected(node=N1, filter=Filter.NETWORK, needed=1, reason=said),)))
    assert sentence == (
        "no node fits: without a network it needs: n1 (no bridge lan, on which network blue lies; it has docker0)"
    )
    assert "asvctl network show" in remedy
