"""Disks and NICs over HTTP: what is asked becomes a command of io, and nothing else; what cannot be is a problem."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from libs.common.decider import Refused
from libs.common.messages import Command, Event, NodeId, VmId
from proto import io
from proto.machine import DiskBus, DiskLimits, DiskWish, NicModel
from tests.contract.gateway_rig import Rig, problem, rig, run_vm

DISKS, NICS = "/v1/vms/a/disks", "/v1/vms/a/nics"
CASES: list[tuple[str, str, Any, Command]] = [
    ("post", DISKS, {"size_mib": 64}, io.AttachDisk(vm="a", disk=DiskWish(size_mib=64))),
    (
        "post",
        DISKS,
        {"image": "tiny", "bus": "nvme", "pool": "fast", "limits": {"iops": 9, "mibps_burst": 4}},
        io.AttachDisk(
            vm="a",
            disk=DiskWish(image="tiny", bus=DiskBus.NVME, pool="fast", limits=DiskLimits(iops=9, mibps_burst=4)),
        ),
    ),
    ("delete", f"{DISKS}/disk1", None, io.DetachDisk(vm="a", name="disk1")),
    ("delete", f"{DISKS}/disk1?remove=true", None, io.DetachDisk(vm="a", name="disk1", delete=True)),
    ("patch", f"{DISKS}/disk1", {"size_mib": 128}, io.ResizeDisk(vm="a", name="disk1", size_mib=128)),
    ("patch", f"{DISKS}/disk1", {"limits": {"mibps": 5}}, io.LimitDisk(vm="a", name="disk1", limits=DiskLimits(mibps=5))),
    ("patch", f"{DISKS}/disk1", {"limits": {}}, io.LimitDisk(vm="a", name="disk1", limits=DiskLimits())),
    ("post", NICS, {}, io.AttachNic(vm="a")),
    ("post", NICS, {"model": "e1000e"}, io.AttachNic(vm="a", model=NicModel.E1000E)),
    ("delete", f"{NICS}/nic1", None, io.DetachNic(vm="a", name="nic1")),
    ("patch", f"{NICS}/nic1", {"link": False}, io.SetNic(vm="a", name="nic1", link=False)),
]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[Rig]:
    async with rig(tmp_path / "pool") as made:
        await run_vm(made)
        yield made


def changed(command: Any) -> list[Event]:
    change = io.Change(kind=io.ChangeKind.ATTACH_DISK, name="disk1", slot=2)
    return [
        io.DevicesChanged(
            vm=VmId(command.vm), node=NodeId("n1"), generation=1, disks=(), nics=(), leaving=(), change=change
        )
    ]


@pytest.mark.parametrize(("method", "path", "body", "command"), CASES, ids=lambda c: type(c).__name__)
async def test_what_is_asked_becomes_one_command(world: Rig, method: str, path: str, body: Any, command: Command) -> None:
    world.io.rules[type(command)] = changed
    client = await world.client("operator")
    answer = await client.request(method, path, json=body)
    assert answer.status_code == 202, answer.text
    assert world.io.heard[-1][1] == command
    task = (await client.get(f"/v1/tasks/{answer.json()['task']}")).json()
    assert task["object"].startswith("a") and task["steps"], task
    problem(await (await world.client("viewer")).request(method, path, json=body), 403)
    problem(await (await world.client("operator", ("red",))).request(method, path, json=body), 404)
    problem(await client.request(method, path.replace("/a/", "/nobody/"), json=body), 404)
    assert len(world.io.heard) == 1


async def test_a_refusal_is_told_with_what_would_help_and_what_changes_nothing_is_done(world: Rig) -> None:
    def no(command: io.DetachDisk) -> list[Event]:
        raise Refused(io.Refusal.BOOT_DISK, "disk0 is what a boots from: it stays", "delete the VM to be rid of it")

    world.io.rules[io.DetachDisk] = no
    world.io.rules[io.SetNic] = lambda command: []
    client = await world.client("operator")
    said = problem(await client.delete(f"{DISKS}/disk0"), 409, "BOOT_DISK")
    assert said["remedy"] == "delete the VM to be rid of it"
    answer = await client.patch(f"{NICS}/nic0", json={"link": True})
    task = (await client.get(f"/v1/tasks/{answer.json()['task']}")).json()
    assert (task["state"], "nothing had to change" in task["sentence"]) == ("done", True)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("post", DISKS, {"size_mib": -1}),
        ("post", DISKS, {"size_mib": 1 << 40}),
        ("post", DISKS, {"size_mib": 64, "bus": "ide"}),
        ("post", DISKS, {"size_mib": 64, "limits": {"iops": -1}}),
        ("post", DISKS, {"size_mib": 64, "colour": "red"}),
        ("patch", f"{DISKS}/disk1", {}),
        ("patch", f"{DISKS}/disk1", {"size_mib": 64, "limits": {"iops": 1}}),
        ("patch", f"{DISKS}/disk1", {"size_mib": 0}),
        ("post", NICS, {"model": "ne2000"}),
        ("patch", f"{NICS}/nic1", {"link": "down"}),
        ("delete", f"{DISKS}/disk1?remove=perhaps", None),
    ],
)
async def test_what_is_no_request_reaches_no_service(world: Rig, method: str, path: str, body: Any) -> None:
    problem(await (await world.client("operator")).request(method, path, json=body), 400)
    assert world.io.heard == []
