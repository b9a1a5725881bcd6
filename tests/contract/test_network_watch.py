"""A node's bridges change while its agent runs: told once, again where nobody heard."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from proto.machine import Nic, NicKind
from proto.networks import Bridge, Uplink
from services.node.drivers import CannotStart
from services.node.drivers.qemu.node_networks import NodeNetworks
from services.node.drivers.simulated import SimHost, SimParams, SimulatedDriver
from services.node.host import network
from services.node.network_watch import NetworkWatch
from tests.contract.driver_rigs import Rig, rig_of


@pytest.fixture(params=["simulated", "qemu"])
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    yield from rig_of(request.param, tmp_path)


async def test_a_driver_says_the_same_of_its_bridges_twice(rig: Rig) -> None:
    driver = rig.driver()
    await driver.open()
    assert (await driver.capabilities()).bridges == await driver.bridges()
    await driver.close()


@pytest.mark.parametrize("what", ["a file", "nothing"])
def test_what_is_no_namespace_is_said_and_nothing_is_entered(tmp_path: Path, what: str) -> None:
    path = tmp_path / "namespace"
    if what == "a file":
        path.touch()
    seen = network.bridges()
    networks = NodeNetworks(namespace=path)
    assert networks.bridges() == () and not networks.may_filter([Bridge(name="lan")])
    assert "cannot be entered" in networks.not_enforced([Bridge(name="lan")])[0]
    with pytest.raises(CannotStart, match="cannot be entered"):
        networks.open_tap(Nic(name="nic0", kind=NicKind.BRIDGE, mac="52:54:00:00:00:01", slot=1, bridge="lan"))
    assert network.bridges() == seen


async def test_what_changed_is_told_until_it_is_heard() -> None:
    host = SimHost("n1", SimParams(), Random(1))
    told: list[tuple[Bridge, ...]] = []
    hears = [True]

    async def renew() -> bool:
        told.append(host.bridges)
        return hears[0]

    watch = NetworkWatch(SimulatedDriver(host), renew)
    await watch.look()
    await watch.look()
    assert len(told) == 1
    bond = Uplink(name="bond0", kind="bond", members=(("eth0", True), ("eth1", False)))
    host.bridges = (Bridge(name="lan", uplinks=(bond,)),)
    hears[0] = False
    await watch.look()
    hears[0] = True
    await watch.look()
    await watch.look()
    assert told[1:] == [host.bridges, host.bridges]
