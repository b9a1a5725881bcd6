"""The API's words about a VM's memory: what is asked of the agent, what is refused, and who may ask."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from libs.common.bus import Incoming
from libs.common.messages import Reply, encode
from proto.mapping import AskMemory, AskTranslate, CellUse, MemoryUse, Space, Step, Translation, WhyNot
from tests.contract.gateway_rig import Rig, defined, rig
from tests.contract.test_gateway import problem, run_vm

TOP = 0xFFFFFFFFFFFFF000
FOUND = Translation(
    vm="a", generation=1, cell=0, state=("resident", "huge"),
    steps=(
        Step(space=Space.GUEST_VIRTUAL, address=TOP + 8, region="vCPU 0", first=TOP, last=TOP + 4095, page_kib=4),
        Step(space=Space.MACHINE, address=0x33B761900),
    ),
)  # fmt: skip


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[Rig]:
    async with rig(tmp_path / "pool") as made:
        yield made


async def answers(world: Rig, what: str, said: msgspec.Struct) -> list[bytes]:
    """The agent of n1 says that; gives the questions it gets."""
    heard: list[bytes] = []

    async def answer(message: Incoming) -> None:
        heard.append(message.data)
        await message.respond(encode(said))

    await world.bus.serve(f"ask.n1.{what}", answer)
    return heard


async def test_an_address_is_followed(world: Rig) -> None:
    await run_vm(world)
    heard = await answers(world, "translate", FOUND)
    client = await world.client("operator")
    body = (await client.get(f"/v1/vms/a/translate?gva={TOP + 8:#x}&pid=7")).json()
    assert msgspec.msgpack.decode(heard[0], type=AskTranslate) == AskTranslate(vm="a", gva=TOP + 8, pid=7)
    assert (body["vm"], body["node"], body["cell"], body["state"]) == ("a", "n1", 0, ["resident", "huge"])
    assert [step["address"] for step in body["steps"]] == ["0xfffffffffffff008", "0x33b761900"]
    assert body["steps"][0]["last"] == "0xffffffffffffffff"
    await client.get(f"/v1/vms/a/translate?gva={TOP}")
    assert msgspec.msgpack.decode(heard[1], type=AskTranslate) == AskTranslate(vm="a", gva=TOP)
    assert (await world.log.head()).position == 3, "nothing was recorded"


@pytest.mark.parametrize(
    ("role", "translate", "memory"), [("viewer", 403, 200), ("operator", 200, 200), ("admin", 200, 200)]
)
async def test_who_may_ask(world: Rig, role: str, translate: int, memory: int) -> None:
    """Where pages lie in the machine is nothing for viewers: it helps those who attack memory from beside."""
    await run_vm(world)
    heard = await answers(world, "translate", FOUND)
    await answers(world, "memory", MemoryUse(vm="a"))
    client = await world.client(role)
    assert (await client.get("/v1/vms/a/translate?gva=0x1000")).status_code == translate
    assert len(heard) == (translate == 200)
    assert (await client.get("/v1/vms/a/memory")).status_code == memory
    stranger = await world.client("admin", ("other",))
    problem(await stranger.get("/v1/vms/a/translate?gva=0x1000"), 404)
    problem(await stranger.get("/v1/vms/a/memory"), 404)


@pytest.mark.parametrize("gva", ["", "0x", "12g", "-1", "0x1ffffffffffffffff", "99999999999999999999", "0x 1"])
async def test_what_is_no_address(world: Rig, gva: str) -> None:
    await run_vm(world)
    client = await world.client("operator")
    assert problem(await client.get("/v1/vms/a/translate", params={"gva": gva}), 400, "BAD_ADDRESS")["field"] == "gva"
    problem(await client.get("/v1/vms/a/translate?gva=0x1000&pid=-1"), 400)
    problem(await client.get("/v1/vms/a/translate"), 400)


@pytest.mark.parametrize(
    ("said", "status", "reason"),
    [
        (Translation(vm="a", why_not=WhyNot.NOT_MAPPED, error="nothing there", remedy="x"), 409, "NOT_MAPPED"),
        (Translation(vm="a", why_not=WhyNot.NEEDS_ROOT, error="no", steps=FOUND.steps), 409, "NEEDS_ROOT"),
        (Translation(vm="a", why_not=WhyNot.BAD_ADDRESS, error="no"), 400, "BAD_ADDRESS"),
        (Translation(vm="", error="not a question"), 409, "FAILED"),
        (Reply(status="x"), 502, "BAD_ANSWER"),
    ],
)
async def test_an_agents_refusal_comes_through(world: Rig, said: msgspec.Struct, status: int, reason: str) -> None:
    await run_vm(world)
    await world.tell("vm-b", [defined("b")])
    client = await world.client("operator")
    problem(await client.get("/v1/vms/b/translate?gva=0x1000"), 409, "NOT_RUNNING")
    problem(await client.get("/v1/vms/a/translate?gva=0x1000"), 503)
    await answers(world, "translate", said)
    body = problem(await client.get("/v1/vms/a/translate?gva=0x1000"), status, reason)
    if isinstance(said, Translation) and said.steps:
        assert "guest-virtual 0xfffffffffffff008" in body["detail"], "how far it went is said"


async def test_what_a_vm_takes(world: Rig) -> None:
    await run_vm(world)
    use = MemoryUse(vm="a", generation=1, nominal_mib=256, resident_kib=1000, cells=(CellUse(cell=0, kib=1000),))
    client = await world.client("viewer")
    problem(await client.get("/v1/vms/a/memory"), 503)
    heard = await answers(world, "memory", use)
    body = (await client.get("/v1/vms/a/memory")).json()
    assert (body["nominal_mib"], body["resident_kib"], body["cells"]) == (256, 1000, [{"cell": 0, "kib": 1000}])
    assert msgspec.msgpack.decode(heard[0], type=AskMemory).vm == "a"


async def test_an_agent_that_cannot_look(world: Rig) -> None:
    await run_vm(world)
    await answers(world, "memory", MemoryUse(vm="", error="no process of a on n1"))
    body = problem(await (await world.client("viewer")).get("/v1/vms/a/memory"), 409, "NO_FIGURES")
    assert "no process of a" in body["detail"]
