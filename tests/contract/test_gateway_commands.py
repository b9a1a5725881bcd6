"""What the HTTP API sends to the services, and how it tells what became of it."""

from __future__ import annotations

import base64

import msgspec
import pytest

from libs.common.bus import Incoming
from libs.common.decider import Refused
from libs.common.messages import Event, Reply, encode
from proto import compute as c
from proto.node import AskExec, AskInfo, ExecResult, VmInfo
from tests.contract.gateway_rig import (
    Rig,
    defined,
    problem,
    run_vm,
    start_requested,
    started,
)


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
    ({"name": "A_"}, "name", "lower-case letters, digits and hyphens"),
    ({"name": "a", "cpus": 2}, "cpus", "known fields: allotment"),
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
