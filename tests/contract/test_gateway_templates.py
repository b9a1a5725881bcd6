"""An image made of a VM's disk, over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from libs.common.messages import Event, NodeId
from proto import io
from proto.images import DiskSource
from proto.machine import Disk, DiskFormat
from tests.contract.gateway_rig import Rig, problem, rig, run_vm

ASK = "/v1/images?name=web&from_vm=a"
DISK = Disk(name="disk1", pool="fast", file="a-disk1.qcow2", size_mib=64, format=DiskFormat.QCOW2, serial="s", slot=1)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[Rig]:
    async with rig(tmp_path / "pool") as made:
        await run_vm(made)
        yield made


async def test_what_is_asked_becomes_one_command(world: Rig) -> None:
    def requested(command: io.MakeImage) -> list[Event]:
        return [io.ImageImportRequested(
            image=command.image, node=NodeId("n1"), pool="fast", file=DISK.file, format=io.ImageFormat.QCOW2,
            source=DiskSource(vm="a", disk=DISK),
        )]  # fmt: skip

    world.io.rules[io.MakeImage] = requested
    client = await world.client("operator")
    answer = await client.post(f"{ASK}&disk=disk1&snapshot=s1")
    assert answer.status_code == 202, answer.text
    assert world.io.heard[-1][1] == io.MakeImage(image="web", vm="a", disk="disk1", snapshot="s1")
    shown = (await client.get("/v1/images/web")).json()
    assert (shown["state"], shown["pool"], shown["file"]) == ("importing", "fast", "")
    task = (await client.get(f"/v1/tasks/{answer.json()['task']}")).json()
    assert "a-disk1.qcow2 of a" in str(task["steps"]), task


async def test_what_is_no_request_reaches_no_service(world: Rig) -> None:
    client = await world.client("operator")
    problem(await client.post(ASK, content=b"abc"), 400, "NO_BODY")
    problem(await client.post("/v1/images?name=web&snapshot=s1"), 400, "NO_VM")
    problem(await client.post("/v1/images?name=web&from_vm=A!"), 400)
    problem(await client.post("/v1/images?name=web&from_vm=nobody"), 404)
    problem(await (await world.client("operator", ("red",))).post(f"{ASK}&project=red"), 404)
    problem(await (await world.client("viewer")).post(ASK), 403)
    assert world.io.heard == []
