"""The ladder's story through the API: in the stories of the VMs that it touched and of the node, each asker told of their own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from libs.common.messages import Envelope, NodeId, VmId
from proto import compute as c
from proto.ladder import HostSeen, LadderClimbed, LadderDescended, LadderStep, Level, Rung, VmMoveWanted, VmPauseWanted
from proto.machine import Priority
from proto.memory import CapacitySet, MemoryReserved, Promise
from tests.contract.gateway_rig import UNREAD, Rig, defined, problem, rig, run_vm
from tests.contract.test_why import flat

N1 = NodeId("n1")
SEEN = HostSeen(at_us=5, total_mib=4096, available_mib=30, forecast_mib=4200)
SHOWN: dict[str, Any] = {"node": N1, "level": Level.LOW, "seen": SEEN, "min_free_mib": 245}


def step(vm: str, rung: Rung = Rung.BALLOON, before: int = 256, after: int = 192) -> LadderStep:
    return LadderStep(
        rung=rung, vm=vm, generation=1, from_mib=before, to_mib=after, demand_mib=150, price=0.5, used_mib=120,
        reservation_mib=64,
    )  # fmt: skip


def wish(kind: type[VmMoveWanted] | type[VmPauseWanted], vm: str) -> Any:
    best = Priority.BEST_EFFORT
    said = "n1 has 30 of 4096 MiB available"
    return kind(node=N1, vm=VmId(vm), generation=1, priority=best, memory_mib=256, short_mib=215, sentence=said)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[Rig]:
    """`a` (default) and `hidden` (another project) on n1, both taken from; `a` then stands still and goes on; `crit` never."""
    async with rig(tmp_path / "pool") as made:
        await made.tell("node-n1", [c.NodeJoined(node=N1, key="U1")])
        for vm, project in (("a", "default"), ("hidden", "other"), ("crit", "default")):
            await run_vm(made, vm, project)
        await made.tell("ledger-n1", [CapacitySet(node=N1, capacity_mib=3000, physical_mib=4096)])
        await made.tell("ledger-n1", [_reserved("a", Priority.BEST_EFFORT), _reserved("crit", Priority.CRITICAL)])
        await made.tell("ledger-n1", [_climbed(step("a"), step("hidden"))])
        paused = _climbed(step("a", Rung.PAUSE, 256, 0), step("hidden", Rung.MOVE, 256, 0))
        at = await made.tell("ledger-n1", [paused, wish(VmMoveWanted, "hidden"), wish(VmPauseWanted, "a")])
        await _because(made, at + 2, [c.VmPauseRequested(vm=VmId("a"), generation=1)])
        back = LadderDescended(spare_mib=900, steps=(step("a", Rung.PAUSE, 0, 256),), **SHOWN)
        at = await made.tell("ledger-n1", [back])
        await _because(made, at, [c.VmResumeRequested(vm=VmId("a"), generation=1)])
        await made.gateway.follower.catch_up()
        yield made


def _climbed(*steps: LadderStep) -> LadderClimbed:
    return LadderClimbed(short_mib=215, covered_mib=128, steps=steps, **SHOWN)


def _reserved(vm: str, priority: Priority) -> MemoryReserved:
    promise = Promise(nominal_mib=256, reservation_mib=256 if priority is Priority.CRITICAL else 64, priority=priority)
    return MemoryReserved(
        node=N1, vm=VmId(vm), generation=1, memory_mib=356, reserved_mib=1, capacity_mib=3000, promise=promise
    )


async def _because(world: Rig, position: int, events: list[Any]) -> None:
    """compute reacts to the event at a position."""
    cause = Envelope(
        id=f"r-{position}", data=UNREAD, actor="service:compute", causation=f"1-{position}", correlation=f"t-{position}"
    )
    await world.tell("vm-a", events, cause)


async def _why(world: Rig, object: str, projects: tuple[str, ...] = ("*",)) -> tuple[str, list[dict[str, Any]]]:
    answer = await (await world.client("viewer", projects)).get(f"/v1/why/{object}")
    assert answer.status_code == 200, answer.text
    return answer.text, [step for story in answer.json()["stories"] for step in flat(story["steps"])]


async def test_a_vms_story_has_what_the_ladder_did_to_it(world: Rig) -> None:
    _, steps = await _why(world, "vm/a")
    told = {step["sentence"]: step for step in steps}
    (taken,) = [said for said in told if "64 MiB taken by its balloon (256 to 192)" in said]
    assert "30 of 4096 MiB available, 12 % of its minFree of 245" in taken and "hidden" not in taken
    need = "predicted to need at most 150 MiB in the next half hour, used 120, 64 reserved, of which nothing is ever taken"
    assert told[taken]["evidence"] == [f"a: {need}; price 0.5 (the lowest pays first)"]
    (stilled,) = [step for said, step in told.items() if said.startswith("a should stand still")]
    assert [effect["type"] for effect in stilled["effects"]] == ["vm_pause_requested"]
    (again,) = [step for said, step in told.items() if "a: it may go on" in said]
    assert [effect["type"] for effect in again["effects"]] == ["vm_resume_requested"]


async def test_the_ladders_decisions_are_one_story(world: Rig) -> None:
    body = (await (await world.client("viewer")).get("/v1/why/vm/a")).json()
    (story,) = [s for s in body["stories"] if any(step["stream"] == "ledger-n1" for step in s["steps"])]
    assert {step["type"] for step in story["steps"]} == {"ladder_climbed", "ladder_descended", "vm_pause_wanted"}


async def test_a_nodes_story_has_all_of_it(world: Rig) -> None:
    text, steps = await _why(world, "node/n1")
    assert "n1 may promise 3000 MiB" in text and "hidden should run elsewhere" in text
    assert any("a: 64 MiB taken" in s["sentence"] and "hidden: 64 MiB taken" in s["sentence"] for s in steps)
    shown = (await (await world.client("viewer")).get("/v1/nodes/n1/memory")).json()["ledger"]["taken"]
    assert [taken["level"] for taken in shown] == ["low"] * 3 and "a: it may go on" in shown[-1]["sentence"]


async def test_who_sees_one_project_is_told_of_its_vms_only(world: Rig) -> None:
    for object in ("vm/a", "node/n1"):
        text, steps = await _why(world, object, ("default",))
        assert "hidden" not in text and any("64 MiB taken" in step["sentence"] for step in steps)
    client = await world.client("viewer", ("default",))
    async with client.stream("GET", "/v1/events?after=0") as answer:
        seen = ""
        async for line in answer.aiter_lines():
            seen += line
            if "vm_resume_requested" in line:
                break
    assert "hidden" not in seen and "ladder_climbed" not in seen
    assert (await client.get("/v1/why/vm/hidden")).status_code == 404


async def test_what_is_deleted_and_another_of_its_name(world: Rig) -> None:
    await world.tell("vm-a", [c.VmDeleted(vm=VmId("a"))])
    await run_vm_again(world)
    text, _ = await _why(world, "vm/a", ("other",))
    assert "balloon" not in text, "that was another project's VM"


async def run_vm_again(world: Rig) -> None:
    envelope = Envelope(id="again", data=UNREAD, actor="user:eve", project="other", owner="eve")
    await world.tell("vm-a", [defined("a")], envelope)
    await world.gateway.follower.catch_up()


async def test_why_none_of_it_is_taken(world: Rig) -> None:
    client = await world.client("viewer")
    said = (await client.get("/v1/why-not/vm/crit?reclaimed=true")).json()
    assert said["sentence"].startswith("crit is critical: all its 256 MiB are reserved")
    assert "n1 is short of memory" in said["evidence"][0] and said["position"] > 0
    own = await world.client("viewer", ("default",))
    assert "hidden" not in (await own.get("/v1/why-not/vm/crit?reclaimed=true")).text
    assert "given again" in (await own.get("/v1/why-not/vm/a?reclaimed=true")).json()["sentence"]
    problem(await client.get("/v1/why-not/vm/a?reclaimed=true&started=true"), 400, "BAD_QUESTION")
    problem(await client.get("/v1/why-not/vm/a"), 400, "BAD_QUESTION")
