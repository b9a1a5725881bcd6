"""Networks in the HTTP API: everyone reads, all-project admins change, and each node says why it has one or not."""

from __future__ import annotations

from msgspec.structs import replace

from libs.common.decider import Refused
from libs.common.messages import Event, NodeId
from proto import compute as c
from proto import io
from proto.machine import NicWish
from proto.networks import Bridge, Uplink
from tests.contract.gateway_rig import ABILITIES, Rig, defined, problem

LAN = Bridge(name="lan", uplinks=(Uplink(name="bond0", kind="bond", members=(("eth0", True), ("eth1", False))),))


def created(command: io.CreateNetwork) -> list[Event]:
    return [io.NetworkCreated(network=command.network, wiring=io.Wiring(bridge=command.bridge, vlan=command.vlan, mtu=command.mtu))]


async def test_a_network_is_created_shown_changed_and_deleted(world: Rig) -> None:
    world.io.rules[io.CreateNetwork] = created
    world.io.rules[io.SetNetwork] = lambda c: [io.NetworkChanged(network=c.network, wiring=io.Wiring(bridge="lan", vlan=c.vlan))]
    world.io.rules[io.DeleteNetwork] = lambda c: [io.NetworkDeleted(network=c.network)]
    for name, bridges in (("n1", (LAN,)), ("n2", (Bridge(name="docker0"),))):
        node = NodeId(name)
        can = replace(ABILITIES, bridges=bridges, tap_filter=True)
        await world.tell(f"node-{name}", [
            c.NodeJoined(node=node, key="U1"), c.NodeReported(node=node, capabilities=can, boot_id="b"),
        ])  # fmt: skip
    await world.tell("vm-a", [replace(defined("a"), nics=(NicWish(network="blue"),))])
    client = await world.client("admin")
    answer = await client.post("/v1/networks", json={"name": "blue", "bridge": "lan", "vlan": 5, "mtu": 1400})
    assert answer.status_code == 202, answer.text
    task = (await client.get(f"/v1/tasks/{answer.json()['task']}")).json()
    assert (task["kind"], task["state"]) == ("create-network", "done")
    viewer = await world.client("viewer")
    shown = (await viewer.get("/v1/networks/blue")).json()
    assert (shown["bridge"], shown["vlan"], shown["mtu"], shown["nodes"], shown["vms"]) == ("lan", 5, 1400, ["n1"], ["a"])
    assert shown["without"] == {"n2": "no bridge lan, on which network blue lies; it has docker0"}
    assert "lost eth1" in shown["faults"]["n1"][0]
    assert [n["name"] for n in (await viewer.get("/v1/networks")).json()["items"]] == ["blue"]
    assert (await client.patch("/v1/networks/blue", json={"vlan": 6})).status_code == 202
    assert (await viewer.get("/v1/networks/blue")).json()["vlan"] == 6
    assert (await client.delete("/v1/networks/blue")).status_code == 202
    problem(await viewer.get("/v1/networks/blue"), 404)


async def test_who_may_and_what_may_not_be(world: Rig) -> None:
    def no(command: io.CreateNetwork) -> list[Event]:
        raise Refused(io.Refusal.BAD_NETWORK, "an MTU of 600 bytes is asked for", "1280 to 9216")

    world.io.rules[io.CreateNetwork] = no
    blue = {"name": "blue", "bridge": "lan"}
    problem(await (await world.client("operator")).post("/v1/networks", json=blue), 403)
    problem(await (await world.client("admin", ("web",))).post("/v1/networks", json=blue), 403)
    admin = await world.client("admin")
    problem(await admin.post("/v1/networks", json=blue | {"mtu": 600}), 409, "BAD_NETWORK")
    for wrong in ({"vlan": 4095}, {"vlan": -1}, {"mtu": 10_000}, {"bridge": "a/b"}, {"bridge": ""}, {"name": "Blue"}, {"x": 1}):
        problem(await admin.post("/v1/networks", json=blue | wrong), 400)
    problem(await admin.patch("/v1/networks/none", json={"vlan": 3}), 404)
    problem(await admin.delete("/v1/networks/none"), 404)
