"""Client and gateway say which protocol they speak, and a cluster is finalized once all speak it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from libs.common.bus import Incoming
from libs.common.decider import Refused
from libs.common.host.status import Status
from libs.common.messages import encode
from libs.common.protocol import OURS, PROTOCOL, Range
from proto.cluster import ClusterFinalized, FinalizeCluster, Refusal
from services.cli import client as cli
from services.cli.failure import Failure
from services.cli.where import Where
from tests.contract.gateway_rig import Rig, rig

SPEAKING = ("compute", "memory", "ha", "relay")


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[Rig]:
    async with rig(tmp_path / "pool") as made:
        yield made


async def speak(world: Rig, name: str) -> None:
    async def status(message: Incoming) -> None:
        await message.respond(encode(Status(service=name)))

    await world.bus.serve(f"query.{name}.status", status)


async def test_a_client_too_far_away_is_told_what_would_be_right(world: Rig) -> None:
    client = await world.client("viewer")
    far = Range(PROTOCOL + 1, PROTOCOL + 2)
    answer = await client.get("/v1/vms", headers={"Asv-Protocol": str(far)})
    assert answer.status_code == 426 and answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert (body["reason"], str(OURS) in body["detail"], str(far) in body["detail"]) == ("PROTOCOL", True, True)
    assert "control plane" in body["remedy"] and answer.headers["asv-protocol"] == str(OURS)
    assert "the client" in (await client.get("/v1/vms", headers={"Asv-Protocol": "0-0"})).json()["remedy"]
    wrong = await client.get("/v1/vms", headers={"Asv-Protocol": "one"})
    assert (wrong.status_code, wrong.json()["reason"]) == (400, "BAD_PROTOCOL")
    for headers in ({}, {"Asv-Protocol": str(OURS)}, {"Asv-Protocol": str(Range(OURS.oldest, OURS.newest + 5))}):
        fine = await client.get("/v1/vms", headers=headers)
        assert fine.status_code == 200 and fine.headers["asv-protocol"] == str(OURS)


async def test_the_command_line_says_its_own(world: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    token = (await world.client("viewer")).headers["authorization"].removeprefix("Bearer ")
    asvctl = cli.Client(Where(world.url, token))
    assert await asyncio.to_thread(asvctl.items, "/v1/vms") == []
    monkeypatch.setattr(cli, "OURS", Range(PROTOCOL + 1, PROTOCOL + 1))
    with pytest.raises(Failure, match=f"speaks protocol {PROTOCOL + 1}-{PROTOCOL + 1}"):
        await asyncio.to_thread(asvctl.items, "/v1/vms")


async def test_finalize_asks_who_speaks_what(world: Rig) -> None:
    def decide(command: FinalizeCluster) -> list[ClusterFinalized]:
        assert command.services == {"io": 0, "gateway": PROTOCOL} | dict.fromkeys(SPEAKING, PROTOCOL)
        if command.protocol > PROTOCOL:
            behind = f"not all speak protocol {PROTOCOL + 1}: io (away)"
            raise Refused(Refusal.BEHIND, behind, "upgrade or remove them, then finalize")
        return [ClusterFinalized(protocol=PROTOCOL)]

    world.compute.rules[FinalizeCluster] = decide
    for name in SPEAKING:
        await speak(world, name)
    admin = await world.client()
    refused = await admin.post("/v1/cluster/finalize", json={"protocol": PROTOCOL + 1})
    assert (refused.status_code, refused.json()["reason"]) == (409, "BEHIND")
    done = await admin.post("/v1/cluster/finalize")
    assert (done.status_code, done.json()["stream"]) == (202, "cluster-main")
    task = (await admin.get(f"/v1/tasks/{done.json()['task']}")).json()
    assert (task["kind"], task["state"]) == ("finalize", "done")
    for role, projects in (("operator", ("*",)), ("admin", ("p",))):
        assert (await (await world.client(role, projects)).post("/v1/cluster/finalize")).status_code == 403
