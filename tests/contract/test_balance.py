"""`GET /v1/cluster/balance` and `asvctl cluster balance`: the rebalancer's real plan, through gateway and command line."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from libs.common.bus import Incoming
from libs.common.decider import Refused
from libs.common.messages import Envelope, Event, NodeId, VmId, encode
from proto.balance import (
    ApplyBalance,
    BalanceSet,
    BalanceShown,
    ClusterLoad,
    Mode,
    MoveEnded,
    MovePlanned,
    Refusal,
    Rules,
    SetBalance,
)
from services.cli.main import run
from services.compute.balance.plan import plan
from tests.contract.gateway_rig import Rig, defined, rig
from tests.model.test_balance import cluster, vm

NIL = msgspec.Raw(encode(None))
CROWDED = cluster(2, vm("web-1", "n1"), vm("web-2", "n1"), vm("db-1", "n1"), vm("db-2", "n1"))


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[Rig]:
    async with rig(tmp_path / "pool") as made:
        for name in ("web-1", "web-2", "db-1", "db-2"):
            owned = Envelope(id=name, data=NIL, actor="user:ann", project=name[:-2])
            await made.tell(f"vm-{name}", [defined(name)], owned)
        await made.gateway.follower.reach(4, 5.0)
        yield made


async def serve(world: Rig, load: ClusterLoad) -> None:
    async def answer(message: Incoming) -> None:
        shown = BalanceShown(plan=plan(load, Rules()), rules=Rules(), nodes=len(load.nodes), vms=len(load.vms))
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


async def test_mode_and_apply_are_for_admins_of_all_projects(world: Rig) -> None:
    await serve(world, CROWDED)
    for role, projects in (("operator", ("*",)), ("admin", ("db",))):
        client = await world.client(role, projects)
        assert (await client.post("/v1/cluster/balance", json={"mode": "auto"})).status_code == 403
        assert (await client.post("/v1/cluster/balance/apply")).status_code == 403
    admin = await world.client("admin")
    for body in ({"mode": "wild"}, {"mode": "auto", "at_once_max": 0}, {"mode": "auto", "threshold": -1}, {}):
        answer = await admin.post("/v1/cluster/balance", json=body)
        assert (answer.status_code, answer.json()["reason"]) == (400, "BAD_BODY"), body


async def test_the_mode_is_set_with_the_rules_that_are_given(world: Rig) -> None:
    await serve(world, CROWDED)
    world.compute.rules[SetBalance] = lambda c: [BalanceSet(mode=c.mode, rules=c.rules or Rules())]
    admin = await world.client("admin")
    done = await admin.post("/v1/cluster/balance", json={"mode": "auto", "at_once_max": 4})
    assert done.status_code == 202, done.text
    (_, heard), *_ = world.compute.heard
    assert heard == SetBalance(mode=Mode.AUTO, rules=Rules(at_once_max=4))
    task = (await admin.get(f"/v1/tasks/{done.json()['task']}")).json()
    assert (task["kind"], task["state"], "auto" in task["sentence"]) == ("balance", "done", True)


async def test_an_applied_batch_is_a_task_until_its_last_move_has_ended(world: Rig) -> None:
    def planned(name: str) -> MovePlanned:
        return MovePlanned(
            vm=VmId(name), source=NodeId("n1"), target=NodeId("n2"), reason="r", gain=0.2, score_before=1.0,
            score_after=0.8, policy="p", at_us=1,
        )  # fmt: skip

    world.compute.rules[ApplyBalance] = lambda _: [planned("web-1"), planned("db-1")]
    admin = await world.client("admin")
    id = (await admin.post("/v1/cluster/balance/apply")).json()["task"]
    for name, left, state in (("web-1", 1, "running"), ("db-1", 0, "done")):
        assert (await admin.get(f"/v1/tasks/{id}")).json()["state"] == "running"
        ended = MoveEnded(vm=VmId(name), moved=True, sentence="", at_us=2, left=left)
        end = await world.tell("balance-cluster", [ended], Envelope(id=f"end-{name}", data=NIL, correlation=id))
        await world.gateway.follower.reach(end, 5.0)
        assert (await admin.get(f"/v1/tasks/{id}")).json()["state"] == state


async def test_a_refusal_arrives_with_its_reason(world: Rig) -> None:
    def refuse(_: ApplyBalance) -> list[Event]:
        raise Refused(
            Refusal.NOTHING_TO_MOVE, "no move would be worth it: the score is 0.100", "nothing has to be done"
        )

    world.compute.rules[ApplyBalance] = refuse
    answer = await (await world.client("admin")).post("/v1/cluster/balance/apply")
    assert (answer.status_code, answer.json()["reason"]) == (409, "NOTHING_TO_MOVE")


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
    assert "even enough" in said.out and "no move would be worth it" in said.err
