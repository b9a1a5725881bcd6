"""An emulated vCPU is plugged whatever QEMU's buffer of translated code holds, and whenever the agent dies meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from proto.machine import MachineSpec, birth
from services.node.drivers import MachineChanged
from services.node.drivers.qemu import fit_emulated
from services.node.drivers.qemu.fit_emulated import free_regions
from services.node.drivers.qemu.machine import RunningVm
from tests.contract.driver_rigs import QemuRig, guest_up, rig_of

FILL_S_MAX = 30.0
BUSY = "(timeout 5 sh -c 'while :; do ls -lR /sys | sort | md5sum; done' >/dev/null 2>&1 &)"


class Dead(Exception):
    """The agent ended before this command."""


class Guest:
    """An emulated VM that runs, and what its driver told of it since."""

    def __init__(self, rig: QemuRig) -> None:
        self.rig = rig
        self.driver = rig.driver()
        spec = rig.spec()
        self.spec = replace(spec, born=birth(spec))
        self.told: list[str] = []

    @property
    def vm(self) -> RunningVm:
        return self.driver._fleet.vms["web-1"]

    def grown(self) -> MachineSpec:
        return replace(self.spec, shape=replace(self.spec.shape, vcpus=2))

    async def listen(self) -> None:
        await self.driver.open()
        tell = self.vm.tell if self.driver._fleet.vms else None

        def told(change: MachineChanged) -> None:
            self.told.append(change.status)
            assert tell is not None
            tell(change)

        if tell is not None:
            self.vm.tell = told

    async def again(self) -> None:
        """Another agent's driver."""
        await self.driver.close()
        self.driver = self.rig.driver()
        await self.listen()

    async def free(self) -> int:
        text = (await self.vm.do("x-query-jit"))["human-readable-text"]
        found = free_regions(text, self.spec.shape.vcpus_max, 1)
        assert found is not None, text
        return found

    async def fill(self) -> None:
        """Until the last region of the buffer is in use, where a plug used to end QEMU: it is near that when it has booted. It then
        stands still, so that the next fit finds it so; its driver takes it for running."""
        end = time.monotonic() + FILL_S_MAX
        await self.driver.exec("web-1", ("sh", "-c", BUSY), b"", 10.0)
        self.vm.still = True
        await fit_emulated._chain(self.vm.qmp, "nochain")
        await self.vm.do("stop")
        while await self.free():
            await asyncio.gather(self.vm.do("cont"), self.vm.do("stop"))  # for less than it takes to fill a region
            assert time.monotonic() < end, "the guest does not fill the buffer"
        await fit_emulated._chain(self.vm.qmp, "none")
        self.vm.still = False

    async def runs(self) -> None:
        """It goes on, with nothing left to be done."""
        assert (await self.vm.do("query-status"))["status"] == "running"
        assert (await self.driver.info("web-1")).status == "running"
        record = self.vm.folder.load()
        assert record is not None and not record.plugging
        assert (await self.driver.exec("web-1", ("true",), b"", 10.0)).exit_code == 0


@pytest.fixture
async def guest(tmp_path: Path) -> AsyncIterator[Guest]:
    for rig in rig_of("qemu", tmp_path):
        assert isinstance(rig, QemuRig)
        guest = Guest(rig)
        await guest.driver.open()
        await guest.driver.start(guest.spec)
        await guest_up(guest.driver)
        if (await guest.vm.do("query-kvm"))["enabled"]:
            pytest.skip("the vCPUs of this host's VMs are not emulated")
        await guest.listen()
        yield guest
        await guest.driver.close()


async def test_where_the_buffer_is_full_room_is_made_first(guest: Guest) -> None:
    await guest.fill()
    machine = await guest.driver.fit(guest.grown())
    assert machine.hardware is not None
    assert (machine.hardware.vcpus, machine.hardware.plugged_vcpus, machine.hardware.misfits) == (2, 2, ())
    await guest.runs()
    assert guest.told == [], "that it stood still is told to nobody"


async def test_a_paused_guest_stays_paused_and_is_plugged_once_it_runs(guest: Guest) -> None:
    await guest.fill()
    await guest.driver.pause("web-1")
    assert await guest.free() == 0
    machine = await guest.driver.fit(guest.grown())
    assert machine.hardware is not None and machine.status == "paused"
    assert [(m.what, m.pending) for m in machine.hardware.misfits] == [("vcpus", True)]
    assert (await guest.vm.do("query-status"))["status"] == "paused"
    await guest.driver.resume("web-1")
    machine = await guest.driver.fit(guest.grown())
    assert machine.hardware is not None and (machine.hardware.vcpus, machine.hardware.misfits) == (2, ())


async def test_a_paused_guest_with_room_is_plugged_and_stays_paused(guest: Guest) -> None:
    await guest.driver.pause("web-1")
    machine = await guest.driver.fit(guest.grown())
    assert machine.hardware is not None and machine.hardware.plugged_vcpus == 2
    await guest.again()
    assert (await guest.vm.do("query-status"))["status"] == "paused"


@pytest.mark.parametrize("full", [False, True], ids=["room", "full"])
async def test_a_guest_whose_agent_died_in_between_goes_on(
    guest: Guest, full: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each command of a plug is once the last that the agent sent. Its next one has the guest go on."""
    if full:
        await guest.fill()
    step, dead, stood = 0, True, 0
    while dead and len(await guest.vm.do("query-cpus-fast")) == 1:
        dead = await _dies_at(guest, step, monkeypatch)
        stood += (await guest.vm.do("query-status"))["status"] == "paused"
        step += 1
        await guest.again()
        await guest.runs()
        assert guest.told == []
    assert stood >= 1, "it never stood still when its agent died"
    machine = await guest.driver.fit(guest.grown())
    assert machine.hardware is not None and (machine.hardware.vcpus, machine.hardware.misfits) == (2, ())


async def _dies_at(guest: Guest, step: int, monkeypatch: pytest.MonkeyPatch) -> bool:
    """A fit whose agent says `step` commands that change something, and nothing any more. Whether it died of that."""
    qmp, left, carried_out = guest.vm.qmp, step, guest.vm.qmp.execute

    async def counted(command: str, *words: Any, **options: Any) -> Any:
        nonlocal left
        if command in ("stop", "cont", "device_add", "human-monitor-command"):
            if left <= 0:
                raise Dead
            left -= 1
        return await carried_out(command, *words, **options)

    with monkeypatch.context() as patch:
        patch.setattr(qmp, "execute", counted)
        try:
            await guest.driver.fit(guest.grown())
        except Dead:
            return True
    return False
