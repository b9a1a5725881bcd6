"""The Driver contract, kept by the simulated and by the real one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from proto.compute import GoneCause
from proto.images import ImageFormat
from proto.machine import DiskFormat
from services.node.drivers import BadImage, CannotStart, Driver, LeaseRefused, Locked, MachineChanged, NoSuchVm
from tests.contract.driver_rigs import Rig, guest_up, rig_of, told


@pytest.fixture(params=["simulated", "qemu"])
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    yield from rig_of(request.param, tmp_path)


@pytest.fixture
async def driver(rig: Rig) -> AsyncIterator[Driver]:
    made = rig.driver()
    assert await made.open() == []
    yield made
    await made.close()


async def test_a_start_said_twice_is_one_process(rig: Rig, driver: Driver) -> None:
    machine = await driver.start(rig.spec())
    assert (machine.vm, machine.generation, machine.status, machine.resets) == ("web-1", 1, "running", 0)
    assert await driver.start(rig.spec()) == machine
    assert await driver.open() == [machine]
    with pytest.raises(CannotStart, match="generation 1"):
        await driver.start(rig.spec(generation=2))
    assert await driver.open() == [machine]


async def test_a_kill_said_twice_leaves_nothing(rig: Rig, driver: Driver) -> None:
    changes = driver.changes()
    await driver.start(rig.spec())
    await driver.kill("web-1")
    assert await driver.open() == []
    assert rig.left_over("n1") == []
    await driver.kill("web-1")
    assert await told(changes, "gone") == MachineChanged("web-1", 1, "gone", GoneCause.ORDERED)


async def test_verbs_about_a_vm_that_is_not_there(driver: Driver) -> None:
    await driver.kill("nobody")
    for verb in (driver.shutdown, driver.pause, driver.resume, driver.reset, driver.info, driver.console):
        with pytest.raises(NoSuchVm, match="nobody"):
            await verb("nobody")
    with pytest.raises(NoSuchVm, match="nobody"):
        await driver.exec("nobody", ("uname", "-r"), b"", 1.0)


async def test_a_generation_of_the_past_is_refused_by_the_lease(rig: Rig, driver: Driver) -> None:
    await driver.start(rig.spec(generation=2))
    await driver.kill("web-1")
    with pytest.raises(LeaseRefused, match="generation 2"):
        await driver.start(rig.spec(generation=1))
    assert rig.left_over("n1") == []
    assert (await driver.start(rig.spec(generation=2))).generation == 2


async def test_two_nodes_never_run_one_vm(rig: Rig, driver: Driver) -> None:
    other = rig.driver("n2")
    await other.open()
    await driver.start(rig.spec(generation=1))
    with pytest.raises(LeaseRefused, match="n1"):
        await other.start(rig.spec(generation=1))
    with pytest.raises(Locked):
        await other.start(rig.spec(generation=2))
    assert rig.left_over("n2") == []
    assert [m.status for m in await driver.open()] == ["running"]
    await driver.kill("web-1")
    assert (await other.start(rig.spec(generation=2))).status == "running"
    with pytest.raises(LeaseRefused, match="generation 2"):
        await driver.start(rig.spec(generation=1))
    await other.kill("web-1")
    await other.close()


async def test_the_next_agent_adopts_what_runs(rig: Rig, driver: Driver) -> None:
    machine = await driver.start(rig.spec())
    await driver.reset("web-1")
    await driver.pause("web-1")
    await driver.close()
    second = rig.driver()
    adopted = await second.open()
    assert [(m.vm, m.pid, m.generation, m.status, m.resets) for m in adopted] == [
        ("web-1", machine.pid, 1, "paused", 1)
    ]
    changes = second.changes()
    await second.resume("web-1")
    assert [m.status for m in await second.open()] == ["running"]
    await rig.crash(second, "web-1")
    assert (await told(changes, "gone")).cause is GoneCause.CRASHED
    assert await second.open() == []
    await second.close()


async def test_pause_resume_and_reset_said_twice(rig: Rig, driver: Driver) -> None:
    await driver.start(rig.spec())
    for verb, status in ((driver.pause, "paused"), (driver.resume, "running")):
        for _ in range(2):
            await verb("web-1")
            assert [m.status for m in await driver.open()] == [status]
    await driver.reset("web-1")
    await driver.reset("web-1")
    assert [(m.status, m.resets) for m in await driver.open()] == [("running", 2)]
    await driver.kill("web-1")
    # What the verbs did is not told: the first thing that anyone hears is the end.
    assert (await anext(aiter(driver.changes()))).status == "gone"


async def test_a_crash_is_seen_and_explained(rig: Rig, driver: Driver) -> None:
    changes = driver.changes()
    await driver.start(rig.spec())
    await rig.crash(driver, "web-1")
    change = await told(changes, "gone")
    assert (change.vm, change.generation, change.cause) == ("web-1", 1, GoneCause.CRASHED)
    assert change.sentence
    assert await driver.open() == []
    assert rig.left_over("n1") == []
    assert (await driver.start(rig.spec())).status == "running"


async def test_a_start_that_fails_leaves_nothing_and_says_why(rig: Rig, driver: Driver) -> None:
    with pytest.raises(CannotStart) as refused:
        await driver.start(rig.unstartable("n1", rig.spec()))
    assert "web-1" in str(refused.value)
    assert await driver.open() == []
    assert rig.left_over("n1") == []
    with pytest.raises(NoSuchVm):
        await driver.info("web-1")


async def test_a_guest_that_answers(rig: Rig, driver: Driver) -> None:
    changes = driver.changes()
    await driver.start(rig.spec())
    console = await driver.console("web-1")
    await guest_up(driver)
    async with asyncio.timeout(20):
        while not (info := await driver.info("web-1")).addresses:
            assert info.error == ""  # the guest is up before its DHCP lease is
    assert (info.generation, info.status, len(info.vcpu_threads), info.addresses) == (1, "running", 1, ("10.0.2.15",))
    assert info.boot_id == (await driver.info("web-1")).boot_id != ""
    result = await driver.exec("web-1", ("uname", "-r"), b"", 10.0)
    assert (result.exit_code, result.stdout, result.stderr, result.error) == (0, rig.kernel, b"", "")
    assert (await driver.exec("web-1", ("cat",), b"\x00\xffin and out", 10.0)).stdout == b"\x00\xffin and out"
    assert (await driver.exec("web-1", ("false",), b"", 10.0)).exit_code == 1
    lost = await driver.exec("web-1", ("/no/such/program",), b"", 10.0)
    assert lost.exit_code == 127
    assert lost.error
    assert await console.read()
    line, answer = rig.typed
    await console.write(line)
    heard = b""
    async with asyncio.timeout(10):
        while answer not in heard:
            heard += await console.read()
    await driver.shutdown("web-1")
    change = await told(changes, "shutdown")
    assert change.cause is GoneCause.GUEST
    assert [m.status for m in await driver.open()] == ["shutdown"]
    await driver.kill("web-1")
    assert (await told(changes, "gone")).cause is GoneCause.GUEST
    await console.close()
    assert rig.left_over("n1") == []


async def test_disks_are_removed_when_nobody_has_them(rig: Rig, driver: Driver) -> None:
    spec = rig.spec()
    await driver.start(spec)
    other = rig.driver("n2")
    await other.open()
    for each in (driver, other):
        with pytest.raises(Locked):
            await each.remove_disks("web-1", spec.disks)
    await driver.kill("web-1")
    await other.remove_disks("web-1", spec.disks)
    await driver.remove_disks("web-1", spec.disks)
    await other.close()


async def test_an_image_is_taken_in_once_and_as_it_is_said(rig: Rig, driver: Driver) -> None:
    digest = rig.incoming("plain.qcow2")
    rig.incoming("overlay.qcow2", backing="plain.qcow2")
    info = await driver.import_image("default", "plain", "plain.qcow2", ImageFormat.QCOW2, digest)
    assert (info.format, info.size_mib, info.sha256) == (DiskFormat.QCOW2, 8, digest)
    assert await driver.import_image("default", "plain", "plain.qcow2", ImageFormat.QCOW2, digest) == info
    for image, file, sha256, says in (
        ("lost", "nowhere.qcow2", "", "nowhere"),
        ("other", "plain.qcow2", "0" * 64, "sha256"),
        ("chain", "overlay.qcow2", "", "backing"),
    ):
        with pytest.raises(BadImage, match=says):
            await driver.import_image("default", image, file, ImageFormat.QCOW2, sha256)
    await driver.remove_image("default", "plain")
    await driver.remove_image("default", "plain")


async def test_the_changes_end_when_the_driver_lets_go(rig: Rig) -> None:
    driver = rig.driver()
    await driver.open()
    await driver.close()
    async with asyncio.timeout(5):
        assert [change async for change in driver.changes()] == []


async def test_a_screenshot_is_a_png_and_leaves_no_file(rig: Rig, driver: Driver, tmp_path: Path) -> None:
    with pytest.raises(NoSuchVm):
        await driver.screenshot("web-1")
    await driver.start(rig.spec())
    for _ in range(2):
        png = await driver.screenshot("web-1")
        assert png.startswith(b"\x89PNG\r\n\x1a\n") and png.endswith(b"IEND\xaeB`\x82")
    assert list(tmp_path.rglob("screen.png")) == []
    await driver.kill("web-1")
