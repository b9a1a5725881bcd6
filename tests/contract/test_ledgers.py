"""`/v1/memory`, what may be set of a node's memory, and `asvctl memory`: the real ledger behind gateway and command line."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from libs.common.bus import Incoming
from libs.common.messages import Envelope, NodeId, VmId, encode
from libs.memory.promise import promise_of
from proto import compute as c
from proto.ladder import HostSeen, LadderClimbed, LadderStep, Level, Rung
from proto.machine import Priority
from proto.memory import MemoryReserved, NoteHost, Purpose, ReserveMemory, SetAreas, SetFailoverShare, SetMemoryPolicy
from services.cli.main import run
from services.memory.model import LEDGER, Account
from services.memory.queries import query
from services.memory.views import Views
from tests.contract.gateway_rig import Rig, Service, defined, rig

N1 = NodeId("n1")


class Memory:
    """The production decider and query over one ledger, on the rig's bus."""

    def __init__(self, world: Rig) -> None:
        self.world = world
        self.state: Account = LEDGER.initial
        self.service = Service(world, "memory")
        self.service.rules = dict.fromkeys((SetAreas, SetFailoverShare, SetMemoryPolicy), self.decide)

    async def open(self) -> None:
        await self.service.open()
        await self.world.bus.serve("query.memory.ledgers", self._answer)
        await self.world.tell("node-n1", [c.NodeJoined(node=N1, key="U1")])
        for vm, project in (("web-1", "web"), ("db-1", "db")):
            owned = Envelope(id=vm, data=encode(None), actor="user:ann", project=project)  # type: ignore[arg-type]
            await self.world.tell(f"vm-{vm}", [defined(vm)], owned)
        await self.tell(NoteHost(node="n1", memory_mib=8192))
        await self.tell(ReserveMemory(node="n1", vm="web-1", generation=1, promise=promise_of(1024, Priority.NORMAL)))
        await self.tell(ReserveMemory(node="n1", vm="db-1", generation=1, promise=promise_of(2048, Priority.CRITICAL)))

    def decide(self, command: Any) -> list[Any]:
        events = list(LEDGER.decide(command, self.state))
        self.state = LEDGER.fold(events, self.state)
        return events

    async def tell(self, command: Any) -> None:
        await self.world.tell("ledger-n1", self.decide(command))

    async def _answer(self, message: Incoming) -> None:
        await message.respond(encode(query("ledgers", b"", {"ledger-n1": self.state, "map-x": None}, Views())))


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[Rig]:
    async with rig(tmp_path / "pool") as made:
        await Memory(made).open()
        await made.gateway.follower.reach(6, 5.0)
        yield made


async def asvctl(world: Rig, patch: pytest.MonkeyPatch, *words: str, projects: tuple[str, ...] = ("*",)) -> int:
    token = (await world.client("admin", projects)).headers["authorization"].removeprefix("Bearer ")
    patch.setenv("ASV_API", world.url)
    patch.setenv("ASV_TOKEN", token)
    return await asyncio.to_thread(run, words)


async def test_ledgers_are_shown_and_foreign_vms_count_but_are_not_named(world: Rig) -> None:
    (shown,) = (await (await world.client("viewer")).get("/v1/memory")).json()["items"]
    assert shown["capacity_mib"] == shown["room_mib"] == 8192 - 512 - 256
    assert shown["reserved_mib"] == 512 + 112 + 2048 + 128 and shown["charged_mib"] == 683 + 2048
    assert {h["vm"] for h in shown["held"]} == {"web-1", "db-1"}
    mine = (await (await world.client("viewer", ("web",))).get("/v1/memory")).json()["items"][0]
    assert [h["vm"] for h in mine["held"]] == ["web-1"] and mine["reserved_mib"] == shown["reserved_mib"]


async def test_what_breaks_promises_is_refused_with_the_numbers_and_what_fits_is_done(world: Rig) -> None:
    admin = await world.client("admin")
    refused = await admin.post("/v1/nodes/n1/memory/share", json={"share_mib": 6000})
    assert refused.status_code == 409 and "of 1424 MiB" in refused.json()["detail"], refused.text
    done = await admin.post("/v1/nodes/n1/memory/share", json={"share_mib": 1000})
    assert done.status_code == 202
    task = (await admin.get(f"/v1/tasks/{done.json()['task']}")).json()
    assert (task["state"], task["kind"], task["object"]) == ("done", "memory-share", "n1")
    assert (await admin.get("/v1/memory")).json()["items"][0]["room_mib"] == 8192 - 512 - 256 - 1000
    again = await admin.post("/v1/nodes/n1/memory/share", json={"share_mib": 1000})
    task = (await admin.get(f"/v1/tasks/{again.json()['task']}")).json()
    assert task["state"] == "done" and "nothing had to change" in task["sentence"]


@pytest.mark.parametrize(
    ("what", "body", "status"),
    [
        ("policy", {"ratio_pct": 99}, 400),
        ("policy", {"class_ratio_pct": {"critical": 150}}, 409),
        ("policy", {"ratio": 150}, 400),
        ("areas", {"areas": [{"name": "host", "min_mib": 9000}]}, 409),
        ("areas", {"areas": [{"name": "x"}] * 17}, 400),
        ("share", {}, 400),
        ("share", {"share_mib": -1}, 400),
    ],
)
async def test_bad_input_is_refused_and_nothing_changes(world: Rig, what: str, body: Any, status: int) -> None:
    admin = await world.client("admin")
    before = (await admin.get("/v1/memory")).json()
    answer = await admin.post(f"/v1/nodes/n1/memory/{what}", json=body)
    assert answer.status_code == status, answer.text
    assert answer.json()["detail"] and (await admin.get("/v1/memory")).json() == before
    assert (await admin.post(f"/v1/nodes/nowhere/memory/{what}", json=body)).status_code in (400, 404)


async def test_only_an_admin_of_all_projects_sets_anything(world: Rig) -> None:
    for role, projects in (("viewer", ("*",)), ("operator", ("*",)), ("admin", ("web",))):
        client = await world.client(role, projects)
        assert (await client.post("/v1/nodes/n1/memory/share", json={"share_mib": 1})).status_code == 403


async def test_asvctl_shows_and_sets(
    world: Rig, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert await asvctl(world, monkeypatch, "memory", "ls") == 0
    assert "n1" in capfd.readouterr().out
    assert await asvctl(world, monkeypatch, "memory", "policy", "n1", "--class", "normal=200", "--wait") == 0
    assert await asvctl(world, monkeypatch, "memory", "areas", "n1", "host=600", "vms-normal=0:3000", "--wait") == 0
    capfd.readouterr()
    assert await asvctl(world, monkeypatch, "memory", "show", "n1") == 0
    out = capfd.readouterr().out
    assert "normal 200 %" in out and "host 600 MiB" in out and "db-1" in out
    assert await asvctl(world, monkeypatch, "memory", "areas", "n1", "host") == 2
    assert await asvctl(world, monkeypatch, "memory", "areas", "n1", "--by-host", "host=5") == 2
    assert await asvctl(world, monkeypatch, "memory", "areas", "n1", "host=9000") == 1
    capfd.readouterr()
    assert await asvctl(world, monkeypatch, "memory", "areas", "n1", "storage=200:1000", "--wait") == 0
    lines = capfd.readouterr().out.splitlines()
    before, after = "min 128 MiB, high 768 MiB, max 1 GiB", "min 200 MiB, high 750 MiB, max 1000 MiB"
    assert [" ".join(line.split()) for line in lines if "storage" in line] == [f"storage {before} {after}"], lines
    assert not any("agent" in line for line in lines), "what did not change is not shown"
    assert await asvctl(world, monkeypatch, "memory", "areas", "n1") == 0
    said = capfd.readouterr()
    assert "host min 600 MiB" in " ".join(said.out.split()) and "qemu-img" in said.out and "set by hand" in said.err
    assert await asvctl(world, monkeypatch, "memory", "areas", "n1", "--by-host", "--wait") == 0
    lines = [" ".join(line.split()) for line in capfd.readouterr().out.splitlines()]
    assert f"storage {after} {before}" in lines and "vms-normal max 2.93 GiB none" in lines, lines
    assert await asvctl(world, monkeypatch, "memory", "policy", "n1", "--class", "normal") == 2
    assert await asvctl(world, monkeypatch, "memory", "show", "n9") == 3


async def test_the_proof_holds_over_a_true_log_and_only_over_all_of_it(
    world: Rig, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert await asvctl(world, monkeypatch, "memory", "prove", "--json") == 0
    told = json.loads(capfd.readouterr().out)
    assert told["holds"] and told["promises"] == 2 and told["critical_max"] == 1 and told["positions"] == 6
    assert await asvctl(world, monkeypatch, "memory", "prove", projects=("web",)) == 5
    assert "nothing is proven by a part" in capfd.readouterr().err


async def test_the_proof_finds_what_was_promised_twice_and_a_critical_vm_that_paid(
    world: Rig, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    more = promise_of(8192, Priority.CRITICAL)
    careless = MemoryReserved(
        node=N1, vm=VmId("c-1"), generation=1, memory_mib=1, reserved_mib=1, capacity_mib=1, promise=more,
        purpose=Purpose.START,
    )  # fmt: skip
    step = LadderStep(rung=Rung.BALLOON, vm="db-1", generation=1, from_mib=2048, to_mib=1000)
    seen = HostSeen(at_us=1, total_mib=8192, available_mib=1)
    taken = LadderClimbed(
        node=N1, level=Level.LOW, seen=seen, min_free_mib=100, short_mib=99, covered_mib=99, steps=(step,)
    )
    await world.tell("ledger-n1", [careless, taken])
    assert await asvctl(world, monkeypatch, "memory", "prove") == 1
    out = capfd.readouterr().out
    assert "position 7: n1 promised c-1" in out and "position 7: n1 says 1 and 0 MiB are promised" in out
    assert "position 8: the critical VM db-1 on n1 was reclaimed from (balloon)" in out
    assert "position 8: db-1 was left 1000 MiB of the 2048 that are its own" in out
