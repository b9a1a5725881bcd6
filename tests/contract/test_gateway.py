"""The HTTP API on a real socket: what it answers, what it sends to the services, who may do what."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from libs.common.bus import Incoming
from libs.common.decider import Refused
from libs.common.messages import Envelope, Event, NodeId, Reply, VmId, encode
from proto import compute as c
from proto import io, memory
from proto.machine import DiskFormat
from proto.node import AskExec, AskInfo, ExecResult, VmInfo
from services.gateway.problems import Problem
from services.gateway.tokens import new_join_token
from tests.contract.gateway_rig import ABILITIES, Rig, defined, rig, start_requested, started

UNREAD = msgspec.Raw(b"\xc0")


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[Rig]:
    async with rig(tmp_path / "pool") as made:
        yield made


def problem(answer: httpx.Response, status: int, reason: str = "") -> dict[str, Any]:
    """The problem, once it was seen to be a complete one."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert body["status"] == status and body["title"] and body["detail"], body
    if reason:
        assert body["reason"] == reason, body
    return body


async def run_vm(world: Rig, vm: str = "a", project: str = "default") -> None:
    envelope = Envelope(id=f"seed-{vm}", data=UNREAD, actor="user:seed", project=project, owner="seed")
    events: list[Event] = [defined(vm), start_requested(vm), started(vm)]
    await world.gateway.follower.reach(await world.tell(f"vm-{vm}", events, envelope) + 2, 2)


class TestDoor:
    async def test_open_calls(self, world: Rig) -> None:
        client = world.bare()
        assert (await client.get("/healthz")).json() == {"log": "ok", "bus": "ok"}
        page = await client.get("/schema")
        assert page.status_code == 200 and "/v1/vms" in page.text
        assert "src=" not in page.text and "//" not in page.text.replace("<!doctype", ""), (
            "nothing comes from elsewhere"
        )
        schema = (await client.get("/schema/openapi.json")).json()
        assert schema["paths"]["/v1/vms"]["post"]["requestBody"]

    async def test_log_away(self, world: Rig) -> None:
        world.log.available = False
        answer = await world.bare().get("/healthz")
        assert answer.status_code == 503 and answer.json()["bus"] == "ok" and "away" in answer.json()["log"]

    async def test_no_token_wrong_token(self, world: Rig) -> None:
        for headers in (
            {},
            {"Authorization": "Bearer x.y"},
            {"Authorization": "Basic eDp5"},
            {"Authorization": "Bearer é.x"},
        ):
            raw = {k: v.encode() for k, v in headers.items()}
            async with httpx.AsyncClient(base_url=world.url, headers=raw, trust_env=False) as client:  # type: ignore[arg-type]
                answer = await client.get("/v1/vms")
                problem(answer, 401)
                assert answer.headers["www-authenticate"] == "Bearer"

    async def test_revoked_and_expired(self, world: Rig) -> None:
        admin = await world.client()
        made = (await admin.post("/v1/tokens", json={"name": "b", "role": "viewer", "projects": ["*"]})).json()
        client = world.bare({"Authorization": f"Bearer {made['token']}"})
        assert (await client.get("/v1/vms")).status_code == 200
        assert (await admin.delete(f"/v1/tokens/{made['id']}")).status_code == 204
        problem(await client.get("/v1/vms"), 401, "BAD_TOKEN")

    async def test_the_secret_is_kept_nowhere(self, world: Rig) -> None:
        admin = await world.client()
        made = (await admin.post("/v1/tokens", json={"name": "b"})).json()
        assert made["role"] == "viewer" and made["projects"] == ["*"]
        listed = (await admin.get("/v1/tokens")).text
        assert made["id"] in listed and made["token"] not in listed and "hash" not in listed
        assert made["token"].encode() not in repr(await world.tokens.rows()).encode()

    async def test_last_admin_stays(self, world: Rig) -> None:
        admin = await world.client()
        id = (await admin.get("/v1/tokens")).json()["items"][0]["id"]
        problem(await admin.delete(f"/v1/tokens/{id}"), 409, "LAST_ADMIN")

    async def test_an_admin_of_a_project_gives_no_more(self, world: Rig) -> None:
        admin = await world.client("admin", ("a",))
        problem(await admin.post("/v1/tokens", json={"name": "b", "projects": ["*"]}), 403, "NOT_PERMITTED")
        problem(await admin.post("/v1/tokens/join"), 403, "NOT_PERMITTED")
        problem(await admin.post("/v1/nodes/n1/cordon"), 403, "NOT_PERMITTED")
        assert (await admin.post("/v1/tokens", json={"name": "b", "projects": ["a"]})).status_code == 201

    async def test_framework_errors_are_problems(self, world: Rig) -> None:
        client = await world.client()
        problem(await client.get("/nowhere"), 404)
        problem(await client.put("/v1/vms"), 405)
        problem(await client.post("/v1/vms", content=b"x" * 3_000_000), 413)
        problem(await client.get("/v1/events?after=-1"), 400)
        problem(await client.get("/v1/events?after=x"), 400)


ROLE_TABLE = [
    ("GET", "/v1/vms", "viewer"),
    ("GET", "/v1/cluster", "viewer"),
    ("GET", "/v1/nodes", "viewer"),
    ("GET", "/v1/images", "viewer"),
    ("GET", "/v1/tasks", "viewer"),
    ("GET", "/v1/events", "viewer"),
    ("POST", "/v1/vms", "operator"),
    ("POST", "/v1/vms/x/start", "operator"),
    ("POST", "/v1/vms/x/exec", "operator"),
    ("GET", "/v1/vms/x/screenshot", "operator"),
    ("GET", "/metrics", "viewer"),
    ("DELETE", "/v1/vms/x", "operator"),
    ("POST", "/v1/images?name=x", "operator"),
    ("DELETE", "/v1/images/x", "operator"),
    ("POST", "/v1/nodes/x/cordon", "admin"),
    ("DELETE", "/v1/nodes/x", "admin"),
    ("GET", "/v1/tokens", "admin"),
    ("POST", "/v1/tokens", "admin"),
    ("POST", "/v1/tokens/join", "admin"),
]


async def test_who_may_do_what(world: Rig) -> None:
    ranks = ["viewer", "operator", "admin"]
    clients = {role: await world.client(role) for role in ranks}
    for method, path, least in ROLE_TABLE:
        for role in ranks:
            answer = await clients[role].request(method, path)
            forbidden = ranks.index(role) < ranks.index(least)
            assert (answer.status_code == 403) == forbidden, (method, path, role, answer.text)


class TestCommands:
    async def test_create(self, world: Rig) -> None:
        world.compute.rules[c.DefineVm] = lambda command: [defined(command.vm)]
        client = await world.client("operator", ("p",))
        answer = await client.post("/v1/vms", json={"name": "a", "vcpus": 2, "image": "tiny"})
        assert answer.status_code == 202, answer.text
        envelope, command = world.compute.heard[0]
        assert isinstance(command, c.DefineVm)
        assert (envelope.actor, envelope.project, envelope.owner) == ("user:operator-1", "p", "operator-1")
        assert envelope.correlation == envelope.id == answer.json()["task"]
        assert [disk.image for disk in command.disks] == ["tiny"] and len(command.nics) == 1
        assert command.uuid and command.vcpus == 2 and command.known is None
        assert (await client.get("/v1/vms/a")).json()["state"] == "stopped", "shown as soon as it was accepted"
        task = (await client.get(f"/v1/tasks/{envelope.id}")).json()
        assert (task["kind"], task["object"], task["state"]) == ("create", "a", "done")

    async def test_create_and_start(self, world: Rig) -> None:
        world.compute.rules[c.DefineVm] = lambda command: [defined(command.vm)]
        world.compute.rules[c.StartVm] = lambda command: [start_requested(command.vm)]
        client = await world.client()
        task = (await client.post("/v1/vms", json={"name": "a", "image": "tiny", "start": True})).json()["task"]
        shown = (await client.get(f"/v1/tasks/{task}")).json()
        assert (shown["kind"], shown["state"], shown["step"]) == ("create", "running", "placed on n1")
        await world.gateway.follower.reach(await world.tell("vm-a", [started("a")]), 2)
        shown = (await client.get(f"/v1/tasks/{task}")).json()
        assert (shown["state"], shown["sentence"]) == ("done", "a runs on n1")

    async def test_created_but_not_started(self, world: Rig) -> None:
        def no(command: c.StartVm) -> list[Event]:
            raise Refused(c.Refusal.NO_NODE_FITS, "no node has 256 MiB left", "stop a VM")

        world.compute.rules[c.DefineVm] = lambda command: [defined(command.vm)]
        world.compute.rules[c.StartVm] = no
        client = await world.client()
        body = problem(await client.post("/v1/vms", json={"name": "a", "start": True}), 409, "NO_NODE_FITS")
        assert "a was created" in body["detail"] and body["remedy"] == "stop a VM"
        task = (await client.get(f"/v1/tasks/{body['task']}")).json()
        assert task["state"] == "failed" and "no node has 256 MiB left" in task["sentence"]

    async def test_same_key_same_answer(self, world: Rig) -> None:
        world.compute.rules[c.DefineVm] = lambda command: [defined(command.vm)]
        client = await world.client()
        key = {"Idempotency-Key": "k-1"}
        first = await client.post("/v1/vms", json={"name": "a"}, headers=key)
        again = await client.post("/v1/vms", json={"name": "a"}, headers=key)
        assert first.status_code == again.status_code == 202 and first.json() == again.json()
        assert (await world.log.head()).position == 1

    async def test_ids_of_services_are_not_for_people(self, world: Rig) -> None:
        client = await world.client()
        for key in ("memory:1-7:0", "", "x" * 65, "a b"):
            problem(await client.post("/v1/vms", json={"name": "a"}, headers={"Idempotency-Key": key}), 400)
        assert not world.compute.heard

    async def test_replies_become_statuses(self, world: Rig) -> None:
        client = await world.client()
        for status, http in (("refused", 409), ("invalid", 400), ("unavailable", 503)):
            world.compute.rules[c.DefineVm] = lambda command, s=status: Reply(
                status=s, reason="WHY", sentence="because"
            )
            answer = await client.post("/v1/vms", json={"name": "a"})
            body = problem(answer, http, "WHY")
            assert body["detail"] == "because"
            assert ("retry-after" in answer.headers) == (http == 503)

    async def test_silence_says_that_repeating_is_safe(self, world: Rig) -> None:
        world.compute.rules[c.DefineVm] = lambda command: None
        client = await world.client()
        body = problem(await client.post("/v1/vms", json={"name": "a"}, headers={"Idempotency-Key": "k"}), 503)
        assert "Idempotency-Key: k" in body["remedy"] and "may or may not" in body["detail"]

    async def test_nobody_there(self, world: Rig) -> None:
        await world.bus.drain()
        client = await world.client()
        answer = await client.post("/v1/vms", json={"name": "a"})
        assert "compute is not running" in problem(answer, 503)["detail"] and answer.headers["retry-after"]

    async def test_nothing_to_change_is_a_task_that_is_done(self, world: Rig) -> None:
        await run_vm(world)
        world.compute.rules[c.StartVm] = lambda command: []
        client = await world.client()
        task = (await client.post("/v1/vms/a/start")).json()["task"]
        assert (await client.get(f"/v1/tasks/{task}")).json()["state"] == "done"

    async def test_verbs(self, world: Rig) -> None:
        await run_vm(world)
        for kind in (c.StopVm, c.ResetVm, c.PauseVm, c.ResumeVm, c.DeleteVm):
            world.compute.rules[kind] = lambda command: []
        client = await world.client("operator")
        for verb in ("stop", "reset", "pause", "resume"):
            assert (await client.post(f"/v1/vms/a/{verb}")).status_code == 202
        assert (await client.delete("/v1/vms/a")).status_code == 202
        assert (await client.post("/v1/vms/a/stop", json={"deadline_s": 0})).status_code == 202
        sent = [command for _, command in world.compute.heard]
        assert sent[0] == c.StopVm(vm="a", deadline_s=60) and sent[-1] == c.StopVm(vm="a", deadline_s=0)
        problem(await client.post("/v1/vms/b/stop"), 404, "UNKNOWN")


BAD_VMS: list[tuple[object, str, str]] = [
    ({"name": "a", "vcpus": "2"}, "vcpus", "integer"),
    ({"name": "a", "vcpus": 0}, "vcpus", ">= 1"),
    ({"name": "a", "memory_mib": 10**9}, "memory_mib", "<= 16777216"),
    ({"name": "A_"}, "name", "like ^[a-z0-9]"),
    ({"name": "a", "cpus": 2}, "cpus", "known fields: allotment, disks, image, memory_max_mib"),
    ({"vcpus": 2}, "name", "takes string"),
    ({"name": "a", "disks": [{"size_mib": 1}, {"size_mb": 1}]}, "size_mb", "known fields"),
    ({"name": "a", "disks": [{"size_mib": -1}]}, "disks[0].size_mib", ">= 0"),
    ({"name": "a", "disks": [{}]}, "disks[0].size_mib", "give size_mib, or an image"),
    ({"name": "a", "priority": "high"}, "priority", "one of best-effort, critical"),
    ({"name": "a", "start": "yes"}, "start", "boolean"),
    ([], "", "an object with name"),
]


@pytest.mark.parametrize(("body", "field", "right"), BAD_VMS, ids=str)
async def test_bad_bodies_say_what_would_be_right(world: Rig, body: object, field: str, right: str) -> None:
    client = await world.client()
    told = problem(await client.post("/v1/vms", json=body), 400, "BAD_BODY")
    assert told.get("field", "").endswith(field), told
    assert right in told["remedy"], told
    assert not world.compute.heard


async def test_not_json(world: Rig) -> None:
    client = await world.client()
    for raw in (b"", b"{", b"\xff\xfe", b'{"name": NaN}'):
        problem(await client.post("/v1/vms", content=raw), 400)


class TestProjects:
    async def test_others_objects_do_not_exist(self, world: Rig) -> None:
        await run_vm(world, "mine", "a")
        await run_vm(world, "theirs", "b")
        client = await world.client("operator", ("a",))
        assert [vm["name"] for vm in (await client.get("/v1/vms")).json()["items"]] == ["mine"]
        problem(await client.get("/v1/vms/theirs"), 404)
        problem(await client.post("/v1/vms/theirs/stop"), 404)
        problem(await client.post("/v1/vms/theirs/exec", json={"argv": ["id"]}), 404)
        streams = {event["stream"] for event in (await client.get("/v1/events")).json()["items"]}
        assert streams == {"vm-mine"}
        assert {task["object"] for task in (await client.get("/v1/tasks")).json()["items"]} == {"mine"}
        assert not world.compute.heard

    async def test_where_a_new_vm_goes(self, world: Rig) -> None:
        world.compute.rules[c.DefineVm] = lambda command: [defined(command.vm)]
        client = await world.client("operator", ("a", "b"))
        problem(await client.post("/v1/vms", json={"name": "x", "project": "c"}), 403, "WRONG_PROJECT")
        problem(await client.post("/v1/vms", json={"name": "x"}), 403, "WRONG_PROJECT")
        assert (await client.post("/v1/vms", json={"name": "x", "project": "b"})).status_code == 202
        assert world.compute.heard[0][0].project == "b"

    async def test_a_name_stays_with_its_project(self, world: Rig) -> None:
        await run_vm(world, "x", "a")
        await world.gateway.follower.reach(await world.tell("vm-x", [c.VmDeleted(vm=VmId("x"))]), 2)
        client = await world.client("operator", ("b",))
        problem(await client.post("/v1/vms", json={"name": "x"}), 409, "NAME_TAKEN")

    async def test_others_images_are_unknown(self, world: Rig) -> None:
        envelope = Envelope(id="i", data=UNREAD, actor="user:x", project="b", owner="x")
        event = io.ImageImportRequested(
            image="secret", node=NodeId("n1"), pool="default", file="f", format=DiskFormat.RAW
        )
        await world.gateway.follower.reach(await world.tell("image-secret", [event], envelope), 2)
        client = await world.client("operator", ("a",))
        assert (await client.get("/v1/images")).json()["items"] == []
        problem(await client.post("/v1/vms", json={"name": "x", "image": "secret"}), 409, "NO_IMAGE")
        assert not world.compute.heard


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


async def frames(answer: httpx.Response, count: int) -> list[dict[str, str]]:
    """The next frames of an event stream, comments left out."""
    found: list[dict[str, str]] = []
    one: dict[str, str] = {}
    async for line in answer.aiter_lines():
        if line and not line.startswith(":"):
            key, _, value = line.partition(": ")
            one[key] = value
        elif one:
            found.append(one)
            one = {}
            if len(found) == count:
                break
    return found


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


class TestExec:
    async def test_exec_and_info(self, world: Rig) -> None:
        await run_vm(world)
        asked: list[AskExec] = []

        async def answer(message: Incoming) -> None:
            asked.append(msgspec.msgpack.decode(message.data, type=AskExec))
            await message.respond(encode(ExecResult(exit_code=3, stdout=b"hi\xff", stderr=b"")))

        async def info(message: Incoming) -> None:
            msgspec.msgpack.decode(message.data, type=AskInfo)
            await message.respond(encode(VmInfo(generation=1, addresses=("10.0.2.15",))))

        await world.bus.serve("ask.n1.exec", answer)
        await world.bus.serve("ask.n1.info", info)
        client = await world.client("operator")
        body = {"argv": ["sh", "-c", "exit 3"], "input_b64": base64.b64encode(b"in").decode()}
        result = (await client.post("/v1/vms/a/exec", json=body)).json()
        assert result["exit_code"] == 3 and base64.b64decode(result["stdout_b64"]) == b"hi\xff"
        assert asked == [AskExec(vm="a", argv=("sh", "-c", "exit 3"), input=b"in")]
        assert (await client.get("/v1/vms/a")).json()["addresses"] == ["10.0.2.15"]
        assert (await world.log.head()).position == 3, "nothing was recorded"

    async def test_exec_refusals(self, world: Rig, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level("DEBUG")
        await run_vm(world)
        await world.tell("vm-b", [defined("b")])
        client = await world.client("operator")
        problem(await client.post("/v1/vms/a/exec", json={"argv": ["topsecret"]}), 503)
        problem(await client.post("/v1/vms/b/exec", json={"argv": ["topsecret"]}), 409, "NOT_RUNNING")
        problem(await client.post("/v1/vms/a/exec", json={"argv": []}), 400)
        problem(await client.post("/v1/vms/a/exec", json={"argv": ["topsecret"], "input_b64": "%"}), 400)
        assert "topsecret" not in caplog.text


class TestImages:
    async def test_upload(self, world: Rig, tmp_path: Path) -> None:
        def requested(command: io.ImportImage) -> list[Event]:
            return [io.ImageImportRequested(
                image=command.image, node=NodeId("n1"), pool=command.pool, file=command.file, format=command.format
            )]  # fmt: skip

        world.io.rules[io.ImportImage] = requested
        client = await world.client("operator")
        answer = await client.post("/v1/images?name=tiny&format=raw", content=b"abc" * 1000)
        assert answer.status_code == 202, answer.text
        (part,) = (tmp_path / "pool" / "incoming").iterdir()
        assert part.read_bytes() == b"abc" * 1000 and part.stat().st_mode & 0o007 == 0
        assert world.io.heard[0][1].file == part.name  # type: ignore[attr-defined]
        assert (await client.get("/v1/images/tiny")).json()["state"] == "importing"
        done = io.ImageRejected(image="tiny", sentence="it has a backing file")
        await world.gateway.follower.reach(await world.tell("image-tiny", [done]), 2)
        task = (await client.get(f"/v1/tasks/{answer.json()['task']}")).json()
        assert (task["state"], task["sentence"]) == ("failed", "it has a backing file")
        await world.gateway.uploads.settle()
        assert not part.exists()

    async def test_refused_uploads_leave_nothing(self, world: Rig, tmp_path: Path) -> None:
        def no(command: io.ImportImage) -> list[Event]:
            raise Refused(io.Refusal.IMAGE_KNOWN, "there is one")

        world.io.rules[io.ImportImage] = no
        world.gateway.uploads.bytes_max = 10_000
        client = await world.client("operator")
        problem(await client.post("/v1/images?name=x", content=b"abc"), 409, "IMAGE_KNOWN")
        problem(await client.post("/v1/images?name=x", content=b""), 400, "EMPTY_BODY")
        problem(await client.post("/v1/images?name=x", content=b"a" * 20_000), 413, "TOO_LARGE")
        problem(await client.post("/v1/images?name=x&pool=y", content=b"a"), 400, "NO_POOL")
        problem(await client.post("/v1/images?name=X!", content=b"a"), 400)
        problem(await client.post("/v1/images?name=x&format=vmdk", content=b"a"), 400)
        problem(await client.post("/v1/images", content=b"a"), 400)
        assert list((tmp_path / "pool" / "incoming").iterdir()) == []

    async def test_chunks_without_a_length_are_bounded_too(self, world: Rig, tmp_path: Path) -> None:
        async def chunks() -> AsyncIterator[bytes]:
            for _ in range(20):
                yield b"a" * 1000

        world.gateway.uploads.bytes_max = 10_000
        with pytest.raises(Problem, match="TOO_LARGE"):
            await world.gateway.uploads.take("default", None, chunks())
        with pytest.raises(Problem, match="TRUNCATED"):
            world.gateway.uploads.bytes_max = 100_000
            await world.gateway.uploads.take("default", 30_000, chunks())
        assert list((tmp_path / "pool" / "incoming").iterdir()) == []
