"""Nodes as the HTTP API shows them, and how one joins."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from libs.common.messages import NodeId, Reply, VmId, encode
from proto import compute as c
from proto import memory
from services.gateway.tokens import new_join_token
from tests.contract.gateway_rig import (
    ABILITIES,
    Rig,
    problem,
    rig,
    run_vm,
)


class TestNodes:
    async def test_nodes_and_cluster(self, world: Rig) -> None:
        n1 = NodeId("n1")
        await world.tell("node-n1", [
            c.NodeJoined(node=n1, key="U1"),
            c.NodeReported(node=n1, capabilities=ABILITIES, boot_id="b"),
        ])  # fmt: skip
        await world.tell("ledger-n1", [
            memory.CapacitySet(node=n1, capacity_mib=4000),
            memory.MemoryReserved(
                node=n1, vm=VmId("a"), generation=1, memory_mib=256, reserved_mib=256, capacity_mib=4000
            ),
        ])  # fmt: skip
        await run_vm(world)
        from proto.node import Beat

        await world.bus.publish("tel.n1.beat", encode(Beat("n1", "b", 1, 1000, 0.5)))
        client = await world.client("viewer")
        node = (await client.get("/v1/nodes/n1")).json()
        assert (node["reserved_mib"], node["capacity_mib"], node["online"], node["vms"]) == (256, 4000, True, ["a"])
        cluster = (await client.get("/v1/cluster")).json()
        assert cluster["accelerators"] == ["tcg"] and cluster["not_enforced"] == ["cgroup"]
        assert cluster["services"]["memory"] == {"ok": False, "error": "does not run", "behind": -1, "status": None}
        assert cluster["services"]["compute"]["ok"]
        assert (cluster["nodes_online"], cluster["vms_running"]) == (1, 1)
        problem(await client.get("/v1/nodes/n9"), 404)


KEY = "U" + "A" * 55
OTHER = "U" + "B" * 55


class Signs:
    """An Issuer that signs with nothing."""

    def issue(self, node: str, public_key: str) -> str:
        return f"jwt for {node} {public_key[:2]}"


class TestJoin:
    @pytest.fixture
    async def world(self, tmp_path: Path) -> AsyncIterator[Rig]:
        async with rig(tmp_path, issuer=Signs(), nats_url="nats://127.0.0.1:1") as made:
            made.compute.rules[c.JoinNode] = lambda command: [c.NodeJoined(node=command.node, key=command.key)]
            yield made

    async def token(self, world: Rig) -> str:
        answer = await (await world.client()).post("/v1/tokens/join", json={"expires_s": 60})
        assert answer.status_code == 201
        return str(answer.json()["token"])

    def body(self, token: str, key: str = KEY) -> dict[str, str]:
        return {"token": token, "node": "n1", "public_key": key}

    async def test_once(self, world: Rig) -> None:
        token, client = await self.token(world), world.bare()
        answers = await asyncio.gather(*(client.post("/v1/join", json=self.body(token)) for _ in range(5)))
        assert sorted(a.status_code for a in answers) == [200, 401, 401, 401, 401]
        (joined,) = (a.json() for a in answers if a.status_code == 200)
        assert joined == {"jwt": "jwt for n1 UA", "nats_url": "nats://127.0.0.1:1"}
        assert world.compute.heard[0][1] == c.JoinNode(node="n1", key=KEY)

    async def test_again_with_the_same_key_only(self, world: Rig) -> None:
        client = world.bare()
        assert (await client.post("/v1/join", json=self.body(await self.token(world)))).status_code == 200
        assert (await client.post("/v1/join", json=self.body(await self.token(world)))).status_code == 200
        token = await self.token(world)
        problem(await client.post("/v1/join", json=self.body(token, OTHER)), 409, "NODE_KNOWN")
        await world.gateway.follower.reach(await world.tell("node-n1", [c.NodeRemoved(node=NodeId("n1"))]), 2)
        assert (await client.post("/v1/join", json=self.body(token, OTHER))).status_code == 200, (
            "the token was not used up"
        )

    async def test_a_join_that_was_not_decided_does_not_use_the_token(self, world: Rig) -> None:
        token, client = await self.token(world), world.bare()
        world.compute.rules[c.JoinNode] = lambda command: Reply(status="unavailable", sentence="not now")
        problem(await client.post("/v1/join", json=self.body(token)), 503)
        world.compute.rules[c.JoinNode] = lambda command: [c.NodeJoined(node=command.node, key=command.key)]
        assert (await client.post("/v1/join", json=self.body(token))).status_code == 200

    async def test_bad(self, world: Rig) -> None:
        client = world.bare()
        problem(await client.post("/v1/join", json=self.body("x" * 43)), 401, "BAD_JOIN_TOKEN")
        problem(await client.post("/v1/join", json=self.body("x" * 43, "SUA")), 400, "BAD_BODY")
        hash, token = new_join_token()
        await world.tokens.add_join(hash, world.clock.now_us() - 1)
        problem(await client.post("/v1/join", json=self.body(token)), 401)
        assert not world.compute.heard
