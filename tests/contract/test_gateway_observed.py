"""What the gateway gathers from agents and services: figures, and a guest's screen. Agents are not believed more than needed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from libs.common.bus import Incoming
from libs.common.messages import NodeId, Reply, encode
from libs.common.metrics import Family, Figures, Sample
from proto import compute as c
from proto.node import AskScreenshot, Beat, Screenshot
from tests.contract.gateway_rig import ABILITIES, Rig, defined, problem, rig, run_vm


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[Rig]:
    async with rig(tmp_path / "pool") as made:
        yield made


class TestScreenshot:
    PNG = b"\x89PNG\r\n\x1a\n..."

    async def test_shown_and_kept_as_a_blob(self, world: Rig) -> None:
        await run_vm(world)

        async def answer(message: Incoming) -> None:
            assert msgspec.msgpack.decode(message.data, type=AskScreenshot).vm == "a"
            await message.respond(encode(Screenshot(png=self.PNG)))

        await world.bus.serve("ask.n1.screenshot", answer)
        got = await (await world.client("operator")).get("/v1/vms/a/screenshot")
        assert (got.status_code, got.content, got.headers["content-type"]) == (200, self.PNG, "image/png")
        blob = await world.gateway.blobs.get(got.headers["asv-blob"])
        assert blob is not None and (blob.kind, blob.data) == ("screenshot", self.PNG)
        assert blob.keep_until_us - blob.at_us == 7 * 86_400_000_000
        assert (await world.log.head()).position == 3, "nothing was recorded"

    @pytest.mark.parametrize(
        ("said", "status"),
        [(Screenshot(error="no screen"), 409), (Screenshot(png=b"<html>"), 502), (Reply(status="x"), 502)],
    )
    async def test_what_is_none_is_refused(self, world: Rig, said: msgspec.Struct, status: int) -> None:
        await run_vm(world)
        await world.tell("vm-b", [defined("b")])
        client = await world.client("operator")
        problem(await client.get("/v1/vms/b/screenshot"), 409, "NOT_RUNNING")
        problem(await client.get("/v1/vms/a/screenshot"), 503)

        async def answer(message: Incoming) -> None:
            await message.respond(encode(said))

        await world.bus.serve("ask.n1.screenshot", answer)
        problem(await client.get("/v1/vms/a/screenshot"), status)


class TestMetrics:
    async def test_an_agent_speaks_for_itself_only(self, world: Rig) -> None:
        await run_vm(world)
        lies = Figures(
            "host",
            (
                Family("asv_bugs_total", "counter", "bugs", (Sample((), 987_654_321),)),
                Family("asv_agent_vms", "gauge", "VMs", (Sample((("node", "n2"), ("state", 'x"} 1\nasv_up 9')), 1),)),
            ),
        )

        async def answer(message: Incoming) -> None:
            await message.respond(encode(lies))

        await world.bus.serve("ask.n1.metrics", answer)
        await world.tell(
            "node-n1",
            [
                c.NodeJoined(node=NodeId("n1"), key="U1"),
                c.NodeReported(node=NodeId("n1"), capabilities=ABILITIES, boot_id="b"),
            ],
        )
        await world.gateway.follower.catch_up()
        await world.bus.publish("tel.n1.beat", encode(Beat("n1", "b", 1, 1000, 0.5)))
        client = await world.client("viewer")
        lines = (await client.get("/metrics")).text.splitlines()
        assert 'asv_agent_vms{node="n1",state="x\\"} 1\\nasv_up 9"} 1' in lines
        assert not any("987654321" in line or line.startswith("asv_up 9") for line in lines)
        assert 'asv_up{service="compute"} 0' in lines and 'asv_up{node="n1"} 1' in lines
        assert f"asv_log_position {(await world.log.head()).position}" in lines
        lies = msgspec.structs.replace(lies, own=(Family("asv_agent_x", "gauge", "two\nlines"),))
        assert 'asv_up{node="n1"} 0' in (await client.get("/metrics")).text, "what is malformed is no answer"
