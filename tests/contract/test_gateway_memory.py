"""The API's words about a VM's memory: what is asked of the agent, what is refused, and who may ask."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from libs.common.bus import Incoming
from libs.common.messages import Event, NodeId, Reply, VmId, encode
from proto import compute as c
from proto import memory
from proto.mapping import AskMemory, AskTranslate, CellUse, MemoryUse, Space, Step, Translation, WhyNot
from proto.node import MemoryBeat, VmMemory
from tests.contract.gateway_rig import Rig, defined, problem, rig, run_vm

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


N1 = NodeId("n1")
FAULTS = ("a: its guest gives no more back", "area storage: no", "hidden: its guest gives no more back")


async def joined(world: Rig) -> None:
    """n1 with a ledger that promises memory to `a` (project default) and to `hidden` (another project)."""
    await run_vm(world)
    await run_vm(world, "hidden", "other")
    areas = (memory.Area(name="host", min_mib=500), memory.Area(name="vms-normal", max_mib=3000))
    await world.tell("node-n1", [c.NodeJoined(node=N1, key="U1")])
    ledger: list[Event] = [
        memory.CapacitySet(node=N1, capacity_mib=3000, physical_mib=4096, share_mib=100, areas=areas, memory_areas="v1")
    ]
    for n, vm in enumerate(("a", "hidden")):
        promise = memory.Promise(nominal_mib=256, reservation_mib=128, overhead_mib=100)
        ledger.append(
            memory.MemoryReserved(
                node=N1, vm=VmId(vm), generation=1, memory_mib=356, reserved_mib=228 * (n + 1), capacity_mib=3000,
                charged_mib=171 * (n + 1), promise=promise,
            )
        )  # fmt: skip
    ledger.append(memory.MemoryOrderReported(node=N1, order_version=3, faults=FAULTS))
    await world.tell("ledger-n1", ledger)
    await world.gateway.follower.catch_up()


async def test_a_nodes_memory(world: Rig) -> None:
    await joined(world)
    client = await world.client("viewer")
    body = (await client.get("/v1/nodes/n1/memory")).json()
    ledger = body["ledger"]
    assert body["pressure"] is None, "nothing was heard"
    assert (ledger["capacity_mib"], ledger["physical_mib"], ledger["reserved_mib"], ledger["charged_mib"]) == (
        3000, 4096, 456, 342,
    )  # fmt: skip
    assert [area["name"] for area in ledger["areas"]] == ["host", "vms-normal"]
    assert ledger["faults"] == list(FAULTS) and set(ledger["vms"]) == {"a", "hidden"}
    vms = (VmMemory("a", 1, 200, 0, 256, 100), VmMemory("hidden", 1, 99))
    beat = MemoryBeat("n1", "b", 5, 4096, 1000, psi_some_avg10=1.5, psi_full_avg10=0.0, vms=vms)
    await world.bus.publish("tel.n1.memory", encode(beat))
    await world.bus.publish("tel.n1.memory", b"nonsense")
    now = (await client.get("/v1/nodes/n1/memory")).json()["pressure"]
    assert (now["available_mib"], now["psi_some_pct"], [vm["vm"] for vm in now["vms"]]) == (1000, 1.5, ["a", "hidden"])
    problem(await client.get("/v1/nodes/n9/memory"), 404)


async def test_vms_of_other_projects_are_not_named(world: Rig) -> None:
    await joined(world)
    beat = MemoryBeat("n1", "b", 5, 4096, 1000, vms=(VmMemory("a", 1, 200), VmMemory("hidden", 1, 99)))
    await world.bus.publish("tel.n1.memory", encode(beat))
    client = await world.client("viewer", ("default",))
    answer = await client.get("/v1/nodes/n1/memory")
    assert "hidden" not in answer.text
    assert answer.json()["ledger"]["reserved_mib"] == 456, "the sums are the node's"
