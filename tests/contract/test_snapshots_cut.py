"""The agent is killed at each step of taking and merging, and the next one does it, twice; no guest is left standing still."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from proto.hardware import Consistency, Hardware
from proto.machine import Disk, Freeze, MachineSpec, birth
from services.node.drivers.qemu.driver import QemuDriver
from services.node.drivers.qemu.freezer import Freezer
from services.node.drivers.qemu.machine import RunningVm
from tests.contract.driver_rigs import Rig, guest_up, rig_of, told
from tests.contract.test_driver_snapshots import Vm, files, leaving, mounted

STEPS = (
    "blockdev-add", "transaction", "block-stream", "block-export-add", "job-finalize", "blockdev-del", "make", "seal", "save",
)  # fmt: skip
THAWED_S_MAX = 20.0


class Cut(BaseException):
    """The agent ends here."""


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    yield from rig_of("qemu", tmp_path)


@pytest.fixture
async def vm(rig: Rig) -> AsyncIterator[Vm]:
    async with mounted(rig) as running:
        yield running


def running(vm: Vm) -> RunningVm:
    assert isinstance(vm.driver, QemuDriver)
    return vm.driver._fleet.vms["web-1"]


async def cut_at(vm: Vm, wanted: MachineSpec, step: int, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Fits until `step` steps that change something were carried out, and nothing after: no thaw, no clearing up. Whether it was
    cut."""
    one, left = running(vm), step
    execute, ask, save = one.qmp.execute, one.agent.ask, one.folder.save

    def count(name: str) -> None:
        nonlocal left
        if name in STEPS or name.startswith("guest-fsfreeze"):
            if left <= 0:
                raise Cut(name)
            left -= 1

    async def executed(command: str, *words: object, **options: object) -> object:
        count(command)
        return await execute(command, *words, **options)  # type: ignore[arg-type]

    async def asked(command: str, *words: object, **options: object) -> object:
        count(command)
        return await ask(command, *words, **options)  # type: ignore[arg-type]

    def saved(*words: object) -> None:
        count("save")
        save(*words)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(one.qmp, "execute", executed)
        patch.setattr(one.agent, "ask", asked)
        patch.setattr(one.folder, "save", saved)
        try:
            await vm.driver.fit(wanted)
        except Cut:
            return True
    return False


async def whole(vm: Vm, wanted: MachineSpec) -> Hardware:
    """Another agent's driver does it, twice."""
    await vm.again()
    has = await vm.fit(wanted)
    while any(m.what == "merge" for m in has.misfits):
        has = await vm.fit()
    assert has.misfits == ()
    assert await vm.fit() == has
    return has


@pytest.mark.timeout(240)
async def test_a_snapshot_that_is_cut_anywhere_is_taken_by_the_next_agent(vm: Vm, monkeypatch: pytest.MonkeyPatch) -> None:
    step, cut = 0, True
    while cut:
        word = f"w{step}"
        await vm.write(word)
        wanted = vm.taken()
        cut = await cut_at(vm, wanted, step, monkeypatch)
        has = await whole(vm, wanted)
        assert files(has, 1)[:2] == (wanted.disks[1].file, wanted.disks[1].layers[0].file), (step, has.took)
        assert has.took is None or not has.took.failed
        async with asyncio.timeout(THAWED_S_MAX):
            while running(vm).record.frozen:
                await asyncio.sleep(0.05)  # the guest's agent has no event for it
        await vm.write(f"{word}-after")
        await vm.reads(f"{word}-after")
        step += 1
        old = [layer.file for disk in wanted.disks for layer in disk.layers]
        await vm.merged(*old)
        await vm.dropped()
    assert step > 8, "a snapshot of two disks is many steps"


@pytest.mark.timeout(240)
async def test_a_merge_that_is_cut_anywhere_is_done_by_the_next_agent(vm: Vm, monkeypatch: pytest.MonkeyPatch) -> None:
    step, cut = 0, True
    while cut:
        await vm.write(f"w{step}")
        await vm.take(Freeze.NO)
        await vm.write(f"x{step}")
        await vm.take(Freeze.NO)
        kept = vm.spec.disks
        wanted = replace(vm.spec, disks=tuple(leaving(d, d.layers[1].file) for d in kept), taking=None)
        cut = await cut_at(vm, wanted, step, monkeypatch)
        has = await whole(vm, wanted)
        assert files(has, 0) == (kept[0].file, kept[0].layers[0].file)
        await vm.reads(f"x{step}")
        await vm.dropped()
        await vm.merged(*(d.layers[0].file for d in kept))
        await vm.dropped()
        step += 1
    assert step > 4


@pytest.mark.timeout(240)
async def test_a_process_that_dies_when_its_layers_are_copied_has_lost_nothing(vm: Vm) -> None:
    """Until its guest flushes, where the copies lie is in QEMU's memory."""
    await vm.write("kept")
    await vm.take(Freeze.NO)
    await vm.take(Freeze.NO)
    gone = [layer.file for disk in vm.spec.disks for layer in disk.layers if not layer.file.endswith("-root.qcow2")]
    wanted = replace(vm.spec, disks=tuple(leaving(d, *gone) for d in vm.spec.disks), taking=None)
    has = await vm.fit(wanted)
    while any(m.what == "merge" for m in has.misfits):
        has = await vm.fit()
    changes = vm.driver.changes()
    os.kill(running(vm).process.pid, signal.SIGKILL)
    await told(changes, "gone")
    vm.spec = replace(vm.spec, generation=2, taking=None, born=None)
    await vm.driver.start(vm.spec)
    vm.spec = replace(vm.spec, born=birth(vm.spec))
    await guest_up(vm.driver)
    await vm.mounted()
    await vm.reads("kept")
    assert (await vm.merged(*gone)).misfits == ()


async def test_a_guest_whose_agent_dies_while_it_stands_still_is_thawed_by_the_next(
    vm: Vm, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def not_any_more(self: Freezer) -> int:
        raise Cut("thaw")

    one, wanted = running(vm), vm.taken(Freeze.REQUIRE)
    with monkeypatch.context() as patch:
        patch.setattr(Freezer, "thaw", not_any_more)
        with pytest.raises(Cut):
            await vm.driver.fit(wanted)
    assert one.record.frozen and await one.agent.ask("guest-fsfreeze-status") == "frozen"
    await vm.again()
    async with asyncio.timeout(THAWED_S_MAX):
        while running(vm).record.frozen:
            await asyncio.sleep(0.05)  # the guest's agent has no event for it
    assert await running(vm).agent.ask("guest-fsfreeze-status") == "thawed"
    await vm.write("goes on")
    has = await vm.fit(wanted)
    assert (has.took, len(files(has, 0))) == (None, 2), "it was taken, and how is not known"


async def test_one_that_has_to_stand_still_and_does_not_is_not_taken_and_leaves_nothing(
    vm: Vm, monkeypatch: pytest.MonkeyPatch
) -> None:
    before: tuple[Disk, ...] = vm.spec.disks
    monkeypatch.setattr("services.node.drivers.qemu.freezer.ANSWERS_S_MAX", 0.0)
    has = await vm.take(Freeze.REQUIRE)
    assert has.took is not None and has.took.failed and "did not answer" in has.took.sentence
    assert vm.rig.disks("n1") == ["web-1-data.qcow2", "web-1-root.qcow2"], "what was made is removed"
    monkeypatch.undo()
    assert await vm.fit() == has, "and the same attempt is not made again, though it would be taken now"
    await vm.again()
    assert await vm.fit() == has
    has = await vm.fit(replace(vm.spec, disks=before, taking=None))
    assert has.misfits == () and has.chains == ()
    has = await vm.take(Freeze.REQUIRE)
    assert has.took is not None and has.took.consistency is Consistency.FILESYSTEM
