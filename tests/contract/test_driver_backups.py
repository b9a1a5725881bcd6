"""Backups of a VM: taken, removed, verified. One suite for both drivers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from proto.backups import BackupKind, Usual
from proto.hardware import Consistency
from proto.machine import Freeze
from proto.node import OrderBackup
from services.node.drivers import NotBackedUp
from services.node.drivers.qemu.backups import claims
from services.node.drivers.simbackups import key_of
from tests.contract.backup_rig import Saved
from tests.contract.driver_rigs import QemuRig, Rig, SimRig, guest_up, rig_of, told
from tests.contract.test_driver_snapshots import Vm, mounted


@pytest.fixture(params=["simulated", "qemu"])
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    yield from rig_of(request.param, tmp_path)


@pytest.fixture
async def saved(rig: Rig) -> AsyncIterator[Saved]:
    async with mounted(rig) as running:
        yield Saved(running)


async def started(vm: Vm, generation: int) -> None:
    await vm.started(generation)
    await guest_up(vm.driver)
    await vm.mounted()


async def going(saved: Saved, order: OrderBackup) -> asyncio.Task[object]:
    """It has begun, and is far from whole."""
    task: asyncio.Task[object] = asyncio.ensure_future(saved.vm.driver.back_up(order))
    async with asyncio.timeout(20):
        while not (copies := await saved.vm.driver.copies()) or not copies[0].all_mib:
            assert not task.done(), task
            await asyncio.sleep(0.01)
    copy = copies[0]
    assert (copy.vm, copy.what, copy.name) == ("web-1", "backup", order.backup) and copy.done_mib < copy.all_mib
    return task


async def test_all_disks_are_backed_up_and_then_what_was_written_since(saved: Saved) -> None:
    """Through a restart of the VM, and of its agent; running, and at rest."""
    vm = saved.vm
    await vm.write("one")
    full = await saved.take()
    assert (full.kind, full.parent, full.sentence) == (BackupKind.FULL, "", "")
    assert (full.consistency, full.frozen_ms > 0, full.at_us > 0) == (Consistency.FILESYSTEM, True, True)
    assert [(d.disk, d.size_mib) for d in full.disks] == [("root", 256), ("data", 64)]
    assert full.normal.write_us > 0 and full.normal.read_us > 0, "how fast its disks were for its guest"
    await vm.write("two")
    second = await saved.take("b1-1", compress=True)
    assert (second.kind, second.parent, second.sentence) == (BackupKind.INCREMENTAL, "b1-1", "")
    assert sum(d.bytes for d in second.disks) < sum(d.bytes for d in full.disks)
    await vm.write("three")
    await vm.driver.pause("web-1")
    third = await saved.take("b1-2", freeze=Freeze.NO)
    assert (third.kind, third.consistency, third.frozen_ms) == (BackupKind.INCREMENTAL, Consistency.CRASH, 0)
    await vm.driver.kill("web-1")
    assert saved.same("b1-3")
    fourth = await saved.take("b1-3", rests=True)
    assert (fourth.kind, fourth.consistency) == (BackupKind.INCREMENTAL, Consistency.STOPPED), fourth.sentence
    assert fourth.normal == Usual(), "nobody had any use of them"
    assert saved.same("b1-4")
    await started(vm, 2)
    await vm.reads("three")
    await vm.write("four")
    await vm.again()
    await vm.driver.pause("web-1")
    fifth = await saved.take("b1-4", freeze=Freeze.NO)
    assert fifth.kind is BackupKind.INCREMENTAL, fifth.sentence
    await vm.driver.kill("web-1")
    assert saved.same("b1-5")
    assert await saved.damaged("b1-5") == {}
    assert saved.names() == ["b1-1", "b1-2", "b1-3", "b1-4", "b1-5"]


async def test_one_that_is_there_is_answered_as_it_is(saved: Saved) -> None:
    order = saved.order()
    done = await saved.taken(order)
    await saved.vm.write("later")
    assert await saved.vm.driver.back_up(order) == done
    await saved.vm.again()
    assert await saved.vm.driver.back_up(order) == done


async def test_after_a_crash_it_is_full_and_says_why(saved: Saved) -> None:
    vm = saved.vm
    await saved.take()
    changes = vm.driver.changes()
    await vm.rig.crash(vm.driver, "web-1")
    await told(changes, "gone")
    await started(vm, 2)
    second = await saved.take("b1-1")
    assert second.kind is BackupKind.FULL and "written since b1-1" in second.sentence
    third = await saved.take("b1-2")
    assert third.kind is BackupKind.INCREMENTAL, third.sentence


async def test_after_a_snapshot_it_is_full_and_says_why(saved: Saved) -> None:
    await saved.take()
    await saved.vm.take()
    second = await saved.take("b1-1")
    assert second.kind is BackupKind.FULL and "written since b1-1" in second.sentence
    assert (await saved.take("b1-2")).kind is BackupKind.INCREMENTAL
    lost = await saved.take("b1-9")
    assert lost.kind is BackupKind.FULL and "b1-9, on which it was to stand, is not in pool" in lost.sentence


async def test_one_given_up_leaves_nothing_and_loses_nothing(saved: Saved) -> None:
    vm = saved.vm
    await saved.take()
    await saved.slow()
    order = saved.order("b1-1", rate_mibps=1)
    task = await going(saved, order)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert saved.names() == ["b1-1"] and await vm.driver.copies() == ()
    if vm.rig.real:
        assert await saved.left() == [] and await saved.bitmaps() == [f"asv-{saved.pool}-b1-1"]
    assert await vm.driver.remove_backup(saved.removal(order.backup)) == {}, "of which there is nothing"
    saved.fast()
    assert (await saved.take("b1-1")).kind is BackupKind.INCREMENTAL


async def test_what_cannot_go_beside_one_ends_it_and_it_says_why(saved: Saved) -> None:
    vm = saved.vm
    await saved.slow()
    task = await going(saved, saved.order(rate_mibps=1))
    await vm.driver.kill("web-1")
    with pytest.raises(NotBackedUp, match="given up: web-1 was powered off"):
        await task
    assert saved.names() == []
    task = await going(saved, saved.order(rests=True, rate_mibps=1))
    await started(vm, 2)
    with pytest.raises(NotBackedUp, match="given up: web-1 was started"):
        await task
    assert saved.names() == []
    task = await going(saved, saved.order(rate_mibps=1))
    await vm.started(3)
    with pytest.raises(NotBackedUp, match="given up: web-1 was powered off"):
        await task
    assert saved.names() == []
    saved.fast()
    assert (await saved.take()).kind is BackupKind.FULL, "of the process that came at once behind it"


async def test_a_guest_that_is_sent_away_takes_no_backup_along(saved: Saved) -> None:
    vm = saved.vm
    await saved.slow()
    there = vm.rig.driver("n2")
    await there.open()
    waiting = await there.receive(replace(vm.spec, generation=2))
    changes = vm.driver.changes()
    task = await going(saved, saved.order(rate_mibps=1))
    await vm.driver.send("web-1", waiting.address)
    with pytest.raises(NotBackedUp, match="given up: the guest of web-1 is sent to another node"):
        await task
    with pytest.raises(NotBackedUp, match="on its way to another node"):
        await saved.take()
    await told(changes, "sent")
    await vm.driver.kill("web-1")
    await there.activate("web-1")
    assert saved.names() == []
    await there.close()


async def test_what_is_not_as_ordered_is_not_backed_up(saved: Saved) -> None:
    vm = saved.vm
    with pytest.raises(NotBackedUp, match="generation 7 of web-1 does not run"):
        await vm.driver.back_up(replace(saved.order(), generation=7))
    with pytest.raises(NotBackedUp, match="runs"):
        await saved.take(rests=True)
    await vm.driver.pause("web-1")
    with pytest.raises(NotBackedUp, match="stand still"):
        await saved.take(freeze=Freeze.REQUIRE) if vm.rig.real else await _never_booted(saved)
    assert saved.names() == []


async def _never_booted(saved: Saved) -> None:
    """A simulated guest that was just reset has no agent."""
    await saved.vm.driver.resume("web-1")
    await saved.vm.driver.reset("web-1")
    await saved.take(freeze=Freeze.REQUIRE)


async def test_those_that_stand_on_a_removed_one_hold_what_they_held(saved: Saved) -> None:
    vm = saved.vm
    for number in range(1, 5):
        await vm.write(f"word-{number}")
        if number == 4:
            await vm.driver.pause("web-1")
        done = await saved.take(f"b1-{number - 1}" if number > 1 else "", freeze=Freeze.NO)
        assert (done.kind is BackupKind.FULL) == (number == 1)
    await vm.driver.kill("web-1")
    assert saved.same("b1-4")
    before = saved.told["b1-3"]
    order = saved.removal("b1-2")
    await saved.remove("b1-2")
    assert saved.names() == ["b1-1", "b1-3", "b1-4"]
    assert saved.told["b1-3"] != before and await saved.damaged("b1-4") == {} and saved.same("b1-4")
    again = await vm.driver.remove_backup(order)
    assert again == {"b1-3": saved.told["b1-3"]}, "said again it is the same"
    await saved.remove("b1-1")
    assert saved.parents == {"b1-3": "", "b1-4": "b1-3"} and await saved.damaged("b1-4") == {} and saved.same("b1-4")
    await saved.remove("b1-4")
    await saved.remove("b1-3")
    assert saved.names() == []


async def test_damage_is_found_and_is_not_merged(saved: Saved) -> None:
    vm = saved.vm
    for number in range(1, 4):
        await vm.write(f"word-{number}")
        await saved.take(f"b1-{number - 1}" if number > 1 else "")
    assert await saved.damaged("b1-3") == {}
    rot(saved, "b1-2")
    assert (await saved.damaged("b1-3")).keys() == {"b1-2"}
    assert await saved.damaged("b1-1") == {}
    with pytest.raises(NotBackedUp, match=r"is damaged.*, and was not merged"):
        await saved.remove("b1-2")
    assert saved.names() == ["b1-1", "b1-2", "b1-3"]
    lose(saved, "b1-1")
    damaged = await saved.damaged("b1-3")
    assert damaged.keys() == {"b1-1", "b1-2"}, damaged
    assert "is not there" in (await saved.damaged("b1-1"))["b1-1"]


def rot(saved: Saved, backup: str) -> None:
    """One bit of one byte."""
    if isinstance(saved.vm.rig, SimRig):
        saved.vm.rig.pool.rotten.add(key_of("default", "web-1", backup))
        return
    rig, file = saved.vm.rig, saved.file(backup)
    assert isinstance(rig, QemuRig)
    if rig.far is None:
        flip(file, file.stat().st_size - 1)
    else:
        flip(rig.far.files / "asv", claims.read(file).end - 1)


def flip(file: Path, at: int) -> None:
    with file.open("r+b") as opened:
        opened.seek(at)
        byte = opened.read(1)[0]
        opened.seek(at)
        opened.write(bytes([byte ^ 1]))


def lose(saved: Saved, backup: str) -> None:
    if isinstance(saved.vm.rig, SimRig):
        del saved.vm.rig.pool.backups[key_of("default", "web-1", backup)]
        return
    saved.file(backup, "root").unlink()
