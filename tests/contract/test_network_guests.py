"""Real guests in networks of two nodes: each node a network namespace with a bridge, and a switch between the two.

web-1 (n1) and web-2 (n2) are in VLAN 5, web-3 (n2) in VLAN 6, with addresses of one subnet.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from msgspec.structs import replace

from proto.machine import MachineSpec, Nic, NicKind, birth
from services.node.drivers import MachineChanged
from services.node.drivers.qemu.driver import QemuDriver
from services.node.drivers.qemu.tap import why_no_filter
from tests.contract.driver_rigs import QemuRig, guest_up, rig_of
from tests.contract.network_rig import BRIDGE, TwoNodes, Wire, mac, two_nodes

MACS = {"web-1": "52:54:00:00:05:01", "web-2": "52:54:00:00:05:02", "web-3": "52:54:00:00:06:03"}
FOREIGN = "52:54:00:00:09:09"
PING_S_MAX, MOVE_S_MAX = 40.0, 60.0
RARP, ARP = b"\x80\x35", b"\x08\x06"


@dataclass
class World:
    """Guests run; drivers by node."""

    nodes: TwoNodes
    rig: QemuRig
    drivers: dict[str, QemuDriver]

    def spec(self, vm: str, generation: int = 1) -> MachineSpec:
        blue = Nic(
            name="nic0", kind=NicKind.BRIDGE, mac=MACS[vm], slot=8, bridge=BRIDGE, network="blue", vlan=int(MACS[vm][13]),
            mtu=1400, queues=2,
        )  # fmt: skip
        spec = self.rig.spec(vm, generation)
        uuid = spec.shape.uuid[:-1] + vm[-1]
        return replace(spec, shape=replace(spec.shape, memory_mib=128, vcpus=2, uuid=uuid), nics=(blue,))

    async def sh(self, vm: str, line: str, node: str = "") -> tuple[int, str]:
        where = node or ("n1" if vm == "web-1" else "n2")
        done = await self.drivers[where].exec(vm, ("sh", "-c", line), b"", PING_S_MAX)
        return done.exit_code, (done.stdout + done.stderr).decode()

    async def address(self, vm: str) -> None:
        # scope link: the image's DHCP client clears what is global as long as nobody answers it
        code, said = await self.sh(vm, f"ip link set eth0 up && ip addr add 10.9.0.{vm[-1]}/24 dev eth0 scope link")
        assert code == 0, said

    async def pings(self, vm: str, other: str, node: str = "", wait_s: int = 10) -> bool:
        """wait_s: less where no answer is to come."""
        code, _ = await self.sh(vm, f"ping -c 1 -W {wait_s} 10.9.0.{other[-1]}", node)
        return code == 0


@pytest.fixture(scope="module")
def nodes() -> Iterator[TwoNodes]:
    with two_nodes() as made:
        if why := made.rooms[0].call(why_no_filter):
            pytest.skip(f"this kernel filters no taps: {why}")
        yield made


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[QemuRig]:
    for made in rig_of("qemu", tmp_path):
        assert isinstance(made, QemuRig)
        yield made


@pytest.fixture
async def world(nodes: TwoNodes, rig: QemuRig) -> AsyncIterator[World]:
    drivers = {
        name: rig.driver(name, bridges=(BRIDGE,), namespace=nodes.namespaces[number]) for number, name in enumerate(("n1", "n2"))
    }
    for driver in drivers.values():
        await driver.open()
    yield World(nodes, rig, drivers)
    for driver in drivers.values():
        await driver.close()


async def first(wire: Wire, wanted: Callable[[int, bytes], bool]) -> tuple[int, bytes]:
    """The first frame of that kind on the wire."""
    return await asyncio.to_thread(lambda: next((v, f) for v, f in wire.frames() if wanted(v, f)))


async def up(world: World, *vms: str) -> None:
    for vm in vms:
        await guest_up(world.drivers["n1" if vm == "web-1" else "n2"], vm)
        await world.address(vm)


@pytest.mark.timeout(300)
async def test_guests_hear_each_other_in_their_vlan_and_nobody_else(world: World) -> None:
    can = await world.drivers["n1"].capabilities()
    assert [b.name for b in can.bridges] == [BRIDGE] and can.tap_filter
    assert [up.name for up in can.bridges[0].uplinks] == ["up0"]
    wire = world.nodes.wire(0)
    await world.drivers["n1"].start(world.spec("web-1"))
    said = await first(wire, lambda vlan, frame: frame[12:14] == RARP)
    assert said[0] == 5 and said[1][6:12] == mac(MACS["web-1"]), "it announces itself as it starts"
    for vm in ("web-2", "web-3"):
        await world.drivers["n2"].start(world.spec(vm))
    await up(world, "web-1", "web-2", "web-3")
    assert await world.pings("web-1", "web-2")
    assert await world.pings("web-2", "web-1")
    assert not await world.pings("web-3", "web-1", wait_s=3), "another VLAN"
    assert not await world.pings("web-3", "web-2", wait_s=3), "another VLAN of the same node"
    assert (await world.sh("web-1", "cat /sys/class/net/eth0/mtu"))[1].strip() == "1400"
    assert await queues(world) == 2
    wire.close()
    await announced_again(world)
    await plugged(world)
    await spoofing(world)


async def plugged(world: World) -> None:
    """A NIC of several queues, put into a running guest: it is in the other VLAN, and announced there."""
    spec = world.spec("web-1")
    red = replace(spec.nics[0], name="nic1", mac="52:54:00:00:06:01", slot=1, network="red", vlan=6, mtu=1500)
    wire = world.nodes.wire(0)
    has = await world.drivers["n1"].fit(replace(spec, nics=(*spec.nics, red), born=birth(spec)))
    assert has.hardware is not None and has.hardware.misfits == () and 1 in has.hardware.slots
    said = await first(wire, lambda vlan, frame: frame[6:12] == mac(red.mac) and frame[12:14] == RARP)
    assert said[0] == 6
    wire.close()
    line = "ip link set eth1 up && ip addr replace 10.9.1.1/24 dev eth1 scope link"
    assert (await world.sh("web-1", f"until [ -e /sys/class/net/eth1 ]; do :; done; {line}"))[0] == 0
    assert (await world.sh("web-3", "ip addr replace 10.9.1.3/24 dev eth0 scope link"))[0] == 0
    assert (await world.sh("web-3", "ping -c 1 -W 10 10.9.1.1"))[0] == 0


async def announced_again(world: World) -> None:
    """A guest that goes on may have been forgotten by switches meanwhile."""
    await world.drivers["n1"].pause("web-1")
    wire = world.nodes.wire(0)
    await world.drivers["n1"].resume("web-1")
    said = await first(wire, lambda vlan, frame: frame[12:14] == RARP)
    assert said[0] == 5 and said[1][6:12] == mac(MACS["web-1"])
    wire.close()


async def queues(world: World) -> int:
    return int((await world.sh("web-1", "ls -d /sys/class/net/eth0/queues/tx-* | wc -l"))[1])


async def spoofing(world: World) -> None:
    """With a MAC address that is not its NIC's, a guest is alone; with its own again it is not."""
    wire = world.nodes.wire(0)
    change = "ip link set eth0 down; ip link set eth0 address {}; ip link set eth0 up; ip neigh flush dev eth0"
    await world.sh("web-1", change.format(FOREIGN))
    assert not await world.pings("web-1", "web-2", wait_s=3)
    await world.sh("web-1", change.format(MACS["web-1"]))
    assert await world.pings("web-1", "web-2")
    seen = []
    for vlan, frame in wire.frames():
        seen.append(frame)
        if frame[6:12] == mac(MACS["web-1"]) and frame[12:14] == b"\x08\x00" and vlan == 5:
            break
    assert not [frame for frame in seen if mac(FOREIGN) in frame], "nothing of the foreign address left the node"
    wire.close()


@pytest.mark.timeout(300)
async def test_a_guest_that_moves_is_found_where_it_came_to(world: World) -> None:
    here, there = world.drivers["n1"], world.drivers["n2"]
    for vm, driver in (("web-1", here), ("web-2", there)):
        await driver.start(world.spec(vm))
    await up(world, "web-1", "web-2")
    assert await world.pings("web-1", "web-2")
    spec = replace(world.spec("web-1", 2), born=None)
    waiting = await there.receive(spec)
    changes = here.changes()
    await here.send("web-1", waiting.address)
    assert (await over(changes)).status == "sent"
    await here.kill("web-1")
    wire = world.nodes.wire(1)
    await there.activate("web-1")
    await there.resume("web-1")
    own = mac(MACS["web-1"])
    said = await first(wire, lambda vlan, frame: frame[6:12] == own and frame[12:14] in (RARP, ARP))
    assert said[0] == 5, "on its VLAN, from the node that it came to"
    assert await world.pings("web-1", "web-2", node="n2")
    assert await world.pings("web-2", "web-1")
    wire.close()



async def over(changes: AsyncIterator[MachineChanged]) -> MachineChanged:
    """The end of a sending, well or not."""
    async with asyncio.timeout(MOVE_S_MAX):
        async for change in changes:
            if change.status == "sent" or change.unsent:
                return change
    raise AssertionError("the changes ended before the sending did")
