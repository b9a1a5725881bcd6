"""Verdicts as the API shows them: to whose VM it is, and the picture only to those who may look at its screen."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from libs.common.bus import Incoming
from libs.common.messages import NodeId, VmId, encode
from proto import compute as c
from proto.node import Screenshot
from proto.panics import VmPanicked
from proto.vitals import AskPicture, Evidence, Finding, Kind, Look, Screen, Sign, VerdictLifted, VerdictReached
from services.gateway.pictures import KEEP_S
from services.gateway.views.verdicts import KEPT_MAX
from tests.contract.gateway_rig import Rig, problem, rig, run_vm

PNG = b"\x89PNG\r\n\x1a\n a kernel's last words"
DIGEST = hashlib.sha256(PNG).hexdigest()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[Rig]:
    async with rig(tmp_path / "pool") as made:
        yield made


def reached(number: int = 1, kind: Kind = Kind.PANIC, *, treated: bool = True, digest: str = DIGEST) -> VerdictReached:
    return VerdictReached(
        vm=VmId("a"), node=NodeId("n1"), generation=1, number=number, kind=kind, at_us=number * 1_000_000,
        sentence="the guest panicked", treated=treated, why_not="" if treated else "its guard leaves hangs alone",
        evidence=Evidence(
            findings=(Finding(sign=Sign.PANIC, word="told"),), screen=Screen(digest=digest, look=Look.PANIC, line="Kernel panic"),
        ),
    )  # fmt: skip


class Node:
    """Gives the pictures that it has."""

    def __init__(self, world: Rig, png: bytes = PNG) -> None:
        self.world = world
        self.png = png
        self.asked = 0

    async def open(self) -> None:
        await self.world.bus.serve("ask.n1.picture", self.answer)

    async def answer(self, message: Incoming) -> None:
        self.asked += 1
        ask = msgspec.msgpack.decode(message.data, type=AskPicture)
        known = ask.vm == "a" and ask.digest == DIGEST
        await message.respond(encode(Screenshot(png=self.png) if known else Screenshot(error="n1 does not keep that picture")))


async def test_shown_with_evidence_and_only_to_its_project(world: Rig) -> None:
    await run_vm(world)
    await world.tell("verdict-a", [reached()])
    (shown,) = (await (await world.client("viewer")).get("/v1/verdicts")).json()["items"]
    assert (shown["vm"], shown["kind"], shown["number"], shown["treated"]) == ("a", "panic", 1, True)
    assert (shown["picture"], shown["screen"], shown["line"]) == (DIGEST, "panic", "Kernel panic")
    stranger = await world.client("admin", projects=("elsewhere",))
    assert (await stranger.get("/v1/verdicts")).json()["items"] == []
    problem(await stranger.get("/v1/vms/a/verdicts"), 404)
    problem(await stranger.get("/v1/vms/a/verdicts/1/picture"), 404)
    problem(await (await world.client("viewer")).get("/v1/vms/a/verdicts/1/picture"), 403)


async def test_a_picture_is_fetched_at_once_and_outlives_its_node(world: Rig) -> None:
    await run_vm(world)
    node = Node(world)
    await node.open()
    now_us = world.gateway.clock.now_us()
    await world.tell("verdict-a", [msgspec.structs.replace(reached(), at_us=now_us)])
    async with asyncio.timeout(10):
        while (blob := await world.gateway.blobs.get(DIGEST)) is None:
            await asyncio.sleep(0.01)
    assert (blob.kind, blob.data, blob.keep_until_us - blob.at_us) == ("verdict", PNG, KEEP_S * 1_000_000)
    client = await world.client("operator")
    for number in (0, 1):
        got = await client.get(f"/v1/vms/a/verdicts/{number}/picture")
        assert (got.status_code, got.content, got.headers["content-type"]) == (200, PNG, "image/png")
    assert node.asked == 1


async def test_what_is_no_such_picture_is_refused(world: Rig) -> None:
    await run_vm(world)
    await world.tell("verdict-a", [reached(), reached(2, digest=""), reached(3, digest="ab" * 32)])
    client = await world.client("operator")
    problem(await client.get("/v1/vms/a/verdicts/1/picture"), 503)
    await Node(world, PNG + b"!").open()
    problem(await client.get("/v1/vms/a/verdicts/1/picture"), 502, "BAD_ANSWER")
    problem(await client.get("/v1/vms/a/verdicts/2/picture"), 404, "NO_PICTURE")
    problem(await client.get("/v1/vms/a/verdicts/3/picture"), 404, "NO_PICTURE")
    problem(await client.get("/v1/vms/a/verdicts/9/picture"), 404)
    problem(await client.get("/v1/vms/b/verdicts"), 404)


async def test_the_latest_are_kept_until_the_vm_is_deleted(world: Rig) -> None:
    await run_vm(world)
    await world.tell("verdict-a", [reached(n) for n in range(1, KEPT_MAX + 4)])
    client = await world.client("viewer")
    shown = (await client.get("/v1/vms/a/verdicts")).json()["items"]
    assert [v["number"] for v in shown] == list(range(4, KEPT_MAX + 4))
    stopped = c.VmStopped(vm=VmId("a"), node=NodeId("n1"), generation=1, cause=c.GoneCause.PANIC)
    await world.tell("vm-a", [stopped, c.VmDeleted(vm=VmId("a"))])
    assert (await client.get("/v1/verdicts")).json()["items"] == []


async def test_alerts_tell_of_panics_and_of_what_is_left_alone(world: Rig) -> None:
    await run_vm(world)
    client = await world.client("viewer")
    await world.tell("vm-a", [VmPanicked(vm=VmId("a"), node=NodeId("n1"), generation=1, sentence="the guest panicked")])
    (alert,) = (await client.get("/v1/alerts")).json()["items"]
    assert (alert["kind"], alert["object"]) == ("panicked", "vm/a") and alert["since_us"] > 0
    await world.tell("verdict-a", [reached(1, Kind.HANG, treated=False)])
    kinds = [a["kind"] for a in (await client.get("/v1/alerts")).json()["items"]]
    assert sorted(kinds) == ["found-dead", "panicked"]
    lifted = VerdictLifted(vm=VmId("a"), generation=1, number=1, kind=Kind.HANG, sentence="it shows life again")
    await world.tell("verdict-a", [lifted])
    assert [a["kind"] for a in (await client.get("/v1/alerts")).json()["items"]] == ["panicked"]
    stranger = await world.client("viewer", projects=("elsewhere",))
    assert (await stranger.get("/v1/alerts")).json()["items"] == []
