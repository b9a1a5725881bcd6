"""What the API says of CPU time: an allotment is changed by command, a schedule is asked of the agent and never recorded."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from libs.common.bus import Incoming
from libs.common.decider import Refused
from libs.common.messages import Event, NodeId, VmId, encode
from proto import compute as c
from proto.machine import Allotment, Priority
from proto.plan import AskSchedule, NodeCpus, PlanMade, VcpuSchedule, VmPlan, VmSchedule
from tests.contract.gateway_rig import Rig, defined, problem, rig, run_vm


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[Rig]:
    async with rig(tmp_path / "pool") as made:
        yield made


def allotted(command: c.SetAllotment) -> list[Event]:
    wish = Allotment(cpu_weight=command.cpu_weight or 0, cpu_cap_pct=command.cpu_cap_pct or 0, pins=command.pins or ())
    return [c.VmAllotted(vm=VmId(command.vm), priority=command.priority or Priority.NORMAL, allotment=wish)]


async def test_only_what_is_said_is_asked_for_and_the_view_follows(world: Rig) -> None:
    await run_vm(world)
    world.compute.rules[c.SetAllotment] = allotted
    client = await world.client("operator")
    body = {"priority": "critical", "cpu_weight": 400, "pins": [1]}
    answer = await client.post("/v1/vms/a/allotment", json=body)
    assert answer.status_code == 202, answer.text
    assert world.compute.heard[-1][1] == c.SetAllotment(vm="a", priority=Priority.CRITICAL, cpu_weight=400, pins=(1,))
    vm = (await client.get("/v1/vms/a")).json()
    assert (vm["priority"], vm["allotment"]["cpu_weight"], vm["allotment"]["pins"], vm["state"]) == (
        "critical", 400, [1], "running",
    )  # fmt: skip
    task = (await client.get(f"/v1/tasks/{answer.json()['task']}")).json()
    assert (task["kind"], task["state"]) == ("allot", "done")


async def test_wrong_allotments_are_named_with_what_would_be_right(world: Rig) -> None:
    await run_vm(world)
    client = await world.client("operator")
    for body, words in (
        ({"cpu_weight": 10_001}, "<= 10000"),
        ({"cpu_weight": -1}, ">= 0"),
        ({"priority": "urgent"}, "best-effort"),
        ({"pins": [9000]}, "<= 8191"),
        ({"weight": 1}, "cpu_weight"),
    ):
        answer = problem(await client.post("/v1/vms/a/allotment", json=body), 400, "BAD_BODY")
        assert words in f"{answer['detail']} {answer['remedy']}"

    def short(command: c.SetAllotment) -> list[Event]:
        raise Refused(c.Refusal.CPU_SHORT, "300 % asked for; its node has 200 %", "reserve 100 % less")

    world.compute.rules[c.SetAllotment] = short
    answer = problem(await client.post("/v1/vms/a/allotment", json={"cpu_reserved_pct": 300}), 409, "CPU_SHORT")
    assert "200 %" in answer["detail"] and answer["remedy"] == "reserve 100 % less"
    problem(await (await world.client("viewer")).post("/v1/vms/a/allotment", json={"cpu_weight": 1}), 403)
    problem(await client.post("/v1/vms/nobody/allotment", json={"cpu_weight": 1}), 404)


async def test_what_changes_nothing_is_done_at_once(world: Rig) -> None:
    await run_vm(world)
    world.compute.rules[c.SetAllotment] = lambda command: []
    client = await world.client("operator")
    answer = await client.post("/v1/vms/a/allotment", json={"cpu_weight": 0})
    task = (await client.get(f"/v1/tasks/{answer.json()['task']}")).json()
    assert (task["kind"], task["state"]) == ("allot", "done") and "nothing had to change" in task["sentence"]


async def test_a_schedule_is_what_the_agent_says(world: Rig) -> None:
    await run_vm(world)
    plan = VmPlan(vm=VmId("a"), generation=1, weight=400, pcpus=(0, 1), sentence="floats over pCPUs 0-1")
    vcpu = VcpuSchedule(vcpu=0, thread=77, pcpus=(0, 1), last_pcpu=1, used_pct=80.0, ready_pct=20.0)
    said = VmSchedule(vm="a", node="n1", generation=1, weight=400, vcpus=(vcpu,), ready_pct=20.0, plan=plan)

    async def answer(message: Incoming) -> None:
        assert msgspec.msgpack.decode(message.data, type=AskSchedule) == AskSchedule(vm="a")
        await message.respond(encode(said))

    await world.bus.serve("ask.n1.schedule", answer)
    got = await (await world.client("viewer")).get("/v1/vms/a/schedule")
    assert got.status_code == 200, got.text
    body = got.json()
    assert (body["weight"], body["ready_pct"], body["plan"]["sentence"]) == (400, 20.0, "floats over pCPUs 0-1")
    assert body["vcpus"][0]["thread"] == 77
    assert (await world.log.head()).position == 3, "nothing was recorded"


async def test_no_schedule(world: Rig) -> None:
    await run_vm(world)
    await world.tell("vm-b", [defined("b")])
    client = await world.client("viewer")
    problem(await client.get("/v1/vms/a/schedule"), 503)
    problem(await client.get("/v1/vms/b/schedule"), 409, "NOT_RUNNING")
    replies = [encode(VmSchedule(error="no process of a answers on n1")), b"\xc1nonsense"]

    async def answer(message: Incoming) -> None:
        await message.respond(replies.pop(0))

    await world.bus.serve("ask.n1.schedule", answer)
    assert "no process" in problem(await client.get("/v1/vms/a/schedule"), 409, "NO_SCHEDULE")["detail"]
    problem(await client.get("/v1/vms/a/schedule"), 502, "BAD_ANSWER")


async def test_a_nodes_plan_speaks_of_all_projects_and_is_shown_to_those_who_see_all(world: Rig) -> None:
    await run_vm(world)
    plan = VmPlan(vm=VmId("a"), generation=1, weight=100)
    made = PlanMade(node=NodeId("n1"), revision=1, policy="plan-1", vms=(plan,), cpus=NodeCpus(cells=((0,),)))
    await world.gateway.follower.reach(await world.tell("plan-n1", [made]), 2)
    types = {}
    for project in ("default", "*"):
        client = await world.client("viewer", projects=(project,))
        types[project] = [e["type"] for e in (await client.get("/v1/events?after=0")).json()["items"]]
    assert "plan_made" in types["*"] and "plan_made" not in types["default"] and "vm_started" in types["default"]
