"""Who comes in at the HTTP API, what they may do and see, and what the door itself refuses."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import httpx

from libs.common.messages import Envelope, NodeId, VmId
from proto import compute as c
from proto import io
from tests.contract.gateway_rig import (
    UNREAD,
    Rig,
    defined,
    frames,
    problem,
    run_vm,
)

PAGE = (Path(__file__).parents[2] / "docs" / "api.md").read_text()


def told(path: str) -> bool:
    """On the page of the API: as it is, among others ({a,b}), or by its end, behind what another begins with (`…/end`)."""
    head, _, end = path.rpartition("/")
    among = rf"{re.escape(head)}/\{{[^}}]*\b{re.escape(end)}\b[^}}]*\}}"
    return bool(re.search(rf"{re.escape(path)}(?![\w/{{-])|{among}|…/(?:[a-z-]+/)*{re.escape(end)}`", PAGE))


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
        untold = " ".join(path for path in schema["paths"] if path.startswith("/v1/") and not told(path))
        assert not untold, "not on the page docs/api.md"

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

    async def test_what_a_revoked_token_opened_ends_at_once(self, world: Rig) -> None:
        admin = await world.client()
        made = (await admin.post("/v1/tokens", json={"name": "b", "role": "viewer", "projects": ["*"]})).json()
        client = world.bare({"Authorization": f"Bearer {made['token']}"})
        async with client.stream("GET", "/v1/events?follow=true") as answer:
            assert (await admin.delete(f"/v1/tokens/{made['id']}")).status_code == 204
            (last,) = await asyncio.wait_for(frames(answer, 1), 5)
        assert last["event"] == "cut" and "no longer valid" in last["data"]

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
            image="secret", node=NodeId("n1"), pool="default", file="f", format=io.ImageFormat.RAW
        )
        await world.gateway.follower.reach(await world.tell("image-secret", [event], envelope), 2)
        client = await world.client("operator", ("a",))
        assert (await client.get("/v1/images")).json()["items"] == []
        problem(await client.post("/v1/vms", json={"name": "x", "image": "secret"}), 409, "NO_IMAGE")
        assert not world.compute.heard
