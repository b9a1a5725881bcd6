"""`GET /v1/cluster/balance` and `asvctl cluster balance`: the rebalancer's real plan, through gateway and command line."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from libs.common.bus import Incoming
from libs.common.messages import Envelope, encode
from proto.balance import BalanceShown, ClusterLoad, Rules
from services.cli.main import run
from services.compute.balance.plan import plan
from tests.contract.gateway_rig import Rig, defined, rig
from tests.model.test_balance import cluster, vm

CROWDED = cluster(2, vm("web-1", "n1"), vm("web-2", "n1"), vm("db-1", "n1"), vm("db-2", "n1"))


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[Rig]:
    async with rig(tmp_path / "pool") as made:
        for name in ("web-1", "web-2", "db-1", "db-2"):
            owned = Envelope(id=name, data=encode(None), actor="user:ann", project=name[:-2])  # type: ignore[arg-type]
            await made.tell(f"vm-{name}", [defined(name)], owned)
        await made.gateway.follower.reach(4, 5.0)
        yield made


async def serve(world: Rig, load: ClusterLoad) -> None:
    async def answer(message: Incoming) -> None:
        shown = BalanceShown(plan=plan(load, Rules()), threshold=0.3, nodes=len(load.nodes), vms=len(load.vms))
        await message.respond(encode(shown))

    await world.bus.serve("query.compute.balance", answer)


async def test_the_plan_is_shown_and_foreign_vms_are_counted_but_not_named(world: Rig) -> None:
    await serve(world, CROWDED)
    everything = (await (await world.client("viewer")).get("/v1/cluster/balance")).json()
    assert everything["score"] > everything["threshold"] > everything["planned"]
    assert everything["score"] == pytest.approx(sum(everything["terms"].values()))
    assert len(everything["moves"]) == 2 and everything["not_shown"] == 0
    assert all(move["reason"] and move["gain"] > 0 for move in everything["moves"])

    mine = (await (await world.client("viewer", ("db",))).get("/v1/cluster/balance")).json()
    assert mine["not_shown"] == 2 - len(mine["moves"])
    assert "web-" not in json.dumps(mine)


async def test_without_compute_it_says_so(world: Rig) -> None:
    answer = await (await world.client("viewer")).get("/v1/cluster/balance")
    assert (answer.status_code, "compute" in answer.json()["detail"]) == (503, True)


async def test_asvctl_shows_moves_with_gains(
    world: Rig, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    await serve(world, CROWDED)
    token = (await world.client("viewer")).headers["authorization"].removeprefix("Bearer ")
    monkeypatch.setenv("ASV_API", world.url)
    monkeypatch.setenv("ASV_TOKEN", token)
    assert await asyncio.to_thread(run, ("cluster", "balance")) == 0
    out = capfd.readouterr().out
    assert "uneven: the threshold is 0.3" in out
    assert "after all moves" in out and "(2 moves)" in out
    lines = [line.split() for line in out.splitlines() if "web-" in line or "db-" in line]
    assert [(line[0], line[2], line[3]) for line in lines] == [("1", "n1", "n2")] * 2


async def test_an_even_cluster_needs_no_move(
    world: Rig, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    await serve(world, cluster(2, vm("web-1", "n1"), vm("web-2", "n2")))
    token = (await world.client("viewer")).headers["authorization"].removeprefix("Bearer ")
    monkeypatch.setenv("ASV_API", world.url)
    monkeypatch.setenv("ASV_TOKEN", token)
    assert await asyncio.to_thread(run, ("cluster", "balance")) == 0
    said = capfd.readouterr()
    assert "even enough" in said.out and "No move would be worth it." in said.err
