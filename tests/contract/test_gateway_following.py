"""The views follow the log whatever the bus loses, and live streams follow the views."""

from __future__ import annotations

import asyncio

import msgspec

from libs.common.messages import NodeId, VmId
from proto import compute as c
from tests.contract.gateway_rig import (
    Rig,
    defined,
    frames,
    problem,
    run_vm,
    start_requested,
)


class TestFollowing:
    async def test_the_bus_may_lose_everything(self, world: Rig) -> None:
        world.live = False
        client = await world.client()
        await world.tell("vm-a", [defined("a")])
        assert await world.gateway.follower.moved(0, 3), "closed from the log within a second or so"
        assert (await client.get("/v1/vms/a")).status_code == 200

    async def test_unknown_objects_are_looked_up_in_the_log(self, world: Rig) -> None:
        world.live = False
        await world.tell("vm-a", [defined("a")])
        assert (await (await world.client()).get("/v1/vms/a")).status_code == 200

    async def test_holes_and_repeats(self, world: Rig) -> None:
        world.live = False
        for name in ("a", "b", "c"):
            await world.tell(f"vm-{name}", [defined(name)])
        await world.publish(2)
        await world.publish(0)
        assert await world.gateway.follower.reach(3, 2)
        assert sorted(world.gateway.model.vms.all) == ["a", "b", "c"]

    async def test_a_failed_attempt_is_not_shown_without_the_next(self, world: Rig) -> None:
        await world.tell("vm-a", [defined("a"), start_requested("a")])
        failed = c.VmStartFailed(vm=VmId("a"), node=NodeId("n1"), generation=1, sentence="denied")
        world.live = False
        position = await world.tell("vm-a", [failed, start_requested("a", "n2", 2)])
        rows = await world.log.read_all(position - 1, 1)
        await world.gateway.follower._take(list(rows))
        assert world.gateway.model.position == position + 1
        assert world.gateway.model.vms.all["a"].node == "n2"


class TestEvents:
    async def test_live_and_resumed(self, world: Rig) -> None:
        await run_vm(world)
        client = await world.client("viewer")
        async with client.stream("GET", "/v1/events?follow=true&after=1") as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            asyncio.get_running_loop().call_soon(lambda: None)
            await world.tell("vm-b", [defined("b")])
            got = await asyncio.wait_for(frames(answer, 3), 5)
        assert [f["id"] for f in got] == ["2", "3", "4"]
        assert [f["event"] for f in got] == ["vm_start_requested", "vm_started", "vm_defined"]
        data = msgspec.json.decode(got[2]["data"])
        assert data["data"]["vm"] == "b" and data["meta"]["actor"] == "service:test"
        async with client.stream("GET", "/v1/events?follow=true", headers={"Last-Event-ID": "3"}) as answer:
            assert [f["id"] for f in await asyncio.wait_for(frames(answer, 1), 5)] == ["4"]

    async def test_filtered(self, world: Rig) -> None:
        await run_vm(world, "theirs", "b")
        await run_vm(world, "mine", "a")
        client = await world.client("viewer", ("a",))
        async with client.stream("GET", "/v1/events?follow=1&after=0") as answer:
            assert [f["id"] for f in await asyncio.wait_for(frames(answer, 3), 5)] == ["4", "5", "6"]

    async def test_list(self, world: Rig) -> None:
        await run_vm(world)
        client = await world.client("viewer")
        page = (await client.get("/v1/events?limit=2")).json()
        assert [e["position"] for e in page["items"]] == [1, 2] and page["position"] == 2
        assert [e["position"] for e in (await client.get("/v1/events?after=2")).json()["items"]] == [3]
        problem(await client.get("/v1/events?follow=1", headers={"Last-Event-ID": "x"}), 400)

    async def test_history_that_is_no_longer_in_memory(self, world: Rig) -> None:
        await run_vm(world)
        world.gateway.follower.recent.clear()
        client = await world.client("viewer")
        assert len((await client.get("/v1/events")).json()["items"]) == 3
