"""The I/O view over HTTP: the agent's word, and what stands where there is none."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from libs.common.bus import Incoming
from libs.common.messages import encode
from proto.ioview import AskIo, DeviceIo, Requests, VmIo
from tests.contract.gateway_rig import Rig, defined, problem, rig, run_vm


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[Rig]:
    async with rig(tmp_path / "pool") as made:
        yield made


async def test_the_io_view_is_what_the_agent_says(world: Rig) -> None:
    await run_vm(world)
    disk = DeviceIo(name="disk0", kind="disk", model="nvme", paravirtual=False, requests=(Requests(kind="read", total=7),))
    said = VmIo(vm="a", node="n1", generation=1, accelerator="tcg", devices=(disk,), intercepted="not counted")

    async def answer(message: Incoming) -> None:
        assert msgspec.msgpack.decode(message.data, type=AskIo) == AskIo(vm="a")
        await message.respond(encode(said))

    await world.bus.serve("ask.n1.io", answer)
    got = await (await world.client("viewer")).get("/v1/vms/a/io")
    assert got.status_code == 200, got.text
    body = got.json()
    assert (body["accelerator"], body["window_ms"], body["intercepted"]) == ("tcg", 0, "not counted")
    assert (body["devices"][0]["model"], body["devices"][0]["requests"][0]["total"]) == ("nvme", 7)
    assert (await world.log.head()).position == 3, "nothing was recorded"


async def test_no_io_view(world: Rig) -> None:
    await run_vm(world)
    await world.tell("vm-b", [defined("b")])
    client = await world.client("viewer")
    problem(await client.get("/v1/vms/a/io"), 503)
    problem(await client.get("/v1/vms/b/io"), 409, "NOT_RUNNING")
    problem(await client.get("/v1/vms/nobody/io"), 404)
    replies = [encode(VmIo(error="no process of a on n1")), b"\xc1nonsense"]

    async def answer(message: Incoming) -> None:
        await message.respond(replies.pop(0))

    await world.bus.serve("ask.n1.io", answer)
    assert "no process" in problem(await client.get("/v1/vms/a/io"), 409, "NO_IO_VIEW")["detail"]
    problem(await client.get("/v1/vms/a/io"), 502, "BAD_ANSWER")
