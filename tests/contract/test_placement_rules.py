"""`/v1/cluster/placement` and `asvctl cluster set`: what is set for placement, through gateway and command line."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from libs.common.bus import Incoming
from libs.common.decider import Refused
from libs.common.messages import Event, NodeId, encode
from proto import compute as c
from proto.cluster import ClassChange, PlacementSet, Refusal, SetPlacement
from proto.machine import Priority
from proto.placement import AskCpuLimit, ClassRules, CpuLimit, PlacementRules, WeightSet
from services.cli.main import run
from tests.contract.gateway_rig import ABILITIES, Rig, rig

RULES = PlacementRules(
    weights=WeightSet.PACK,
    vcpus_per_pcpu=4.0,
    classes={Priority.CRITICAL: ClassRules(weights=WeightSet.SPREAD, vcpus_per_pcpu=1.0)},
    nodes={"n1": 2.0},
)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[Rig]:
    async with rig(tmp_path / "pool") as made:
        yield made


async def serve(world: Rig) -> None:
    async def answer(message: Incoming) -> None:
        await message.respond(encode(RULES))

    await world.bus.serve("query.compute.placement", answer)


async def test_rules_are_shown_to_all_and_changed_by_admins_of_all_projects(world: Rig) -> None:
    await serve(world)
    shown = (await (await world.client("viewer", ("db",))).get("/v1/cluster/placement")).json()
    assert shown["weights"] == "pack" and shown["classes"]["critical"]["vcpus_per_pcpu"] == 1.0
    for role, projects in (("operator", ("*",)), ("admin", ("db",))):
        answer = await (await world.client(role, projects)).post("/v1/cluster/placement", json={"weights": "pack"})
        assert answer.status_code == 403
    admin = await world.client("admin")
    bad: list[dict[str, Any]] = [
        {"weights": "fill"}, {"vcpus_per_pcpu": 0}, {"nodes": {"n1": 65}}, {"classes": {"gold": {}}}, {"x": 1},
    ]  # fmt: skip
    for body in bad:
        answer = await admin.post("/v1/cluster/placement", json=body)
        assert (answer.status_code, answer.json()["reason"]) == (400, "BAD_BODY"), body


async def test_a_broken_limit_arrives_with_its_numbers(world: Rig) -> None:
    def refuse(_: SetPlacement) -> list[Event]:
        raise Refused(Refusal.PROMISED_MORE, "n1 has 12 vCPUs on 4 pCPUs, and 8 would be allowed", "move VMs first")

    world.compute.rules[SetPlacement] = refuse
    answer = await (await world.client("admin")).post("/v1/cluster/placement", json={"vcpus_per_pcpu": 2})
    assert (answer.status_code, answer.json()["reason"]) == (409, "PROMISED_MORE")
    assert "12 vCPUs" in answer.json()["detail"]


async def test_asvctl_sets_and_shows(
    world: Rig, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    await serve(world)
    world.compute.rules[SetPlacement] = lambda _: [PlacementSet(rules=RULES)]
    token = (await world.client("admin")).headers["authorization"].removeprefix("Bearer ")
    monkeypatch.setenv("ASV_API", world.url)
    monkeypatch.setenv("ASV_TOKEN", token)
    words = ("placement=pack", "vcpus-per-pcpu.critical=1", "vcpus-per-pcpu@n1=2")
    assert await asyncio.to_thread(run, ("cluster", "set", *words, "--wait")) == 0
    (_, heard), *_ = world.compute.heard
    assert heard == SetPlacement(
        weights=WeightSet.PACK, classes={Priority.CRITICAL: ClassChange(vcpus_per_pcpu=1.0)}, nodes={"n1": 2.0}
    )
    capfd.readouterr()
    assert await asyncio.to_thread(run, ("cluster", "set")) == 0
    lines = [" ".join(line.split()) for line in capfd.readouterr().out.splitlines()]
    assert "placement of critical spread" in lines and "vcpus per pcpu on n1 2" in lines
    assert await asyncio.to_thread(run, ("cluster", "set", "placement=fill")) != 0


async def test_a_node_that_runs_more_than_its_limit_says_so(
    world: Rig, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    await world.tell("node-n1", [
        c.NodeJoined(node=NodeId("n1"), key="U1"), c.NodeReported(node=NodeId("n1"), capabilities=ABILITIES, boot_id="b"),
    ])  # fmt: skip
    client = await world.client("viewer")
    assert (await client.get("/v1/nodes/n1")).json()["vcpus_max"] == -1, "shown all the same while compute is away"

    async def answer(message: Incoming) -> None:
        said = f"{msgspec.msgpack.decode(message.data, type=AskCpuLimit).node} has too many"
        await message.respond(encode(CpuLimit(node="n1", pcpus=2, vcpus=17, vcpus_max=16, ratio=8, sentence=said)))

    await world.bus.serve("query.compute.cpu-limit", answer)
    node = (await client.get("/v1/nodes/n1")).json()
    assert (node["vcpus"], node["vcpus_max"], node["over_limit"]) == (17, 16, "n1 has too many")
    monkeypatch.setenv("ASV_API", world.url)
    monkeypatch.setenv("ASV_TOKEN", client.headers["authorization"].removeprefix("Bearer "))
    await asyncio.to_thread(run, ("node", "show", "n1"))
    lines = [" ".join(line.split()) for line in capfd.readouterr().out.splitlines()]
    assert "vcpus 17 of at most 16" in lines and "over-allocated n1 has too many" in lines
