"""The Driver contract's part about CD drives; kept by both drivers, and looked at from inside a real guest."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from io import BytesIO
from pathlib import Path

import pycdlib
import pytest
from msgspec.structs import replace

from proto.images import ImageFormat
from proto.machine import Disk, DiskBus, DiskFormat, MachineSpec
from services.node.drift import differences
from services.node.drivers import BadImage, Driver
from tests.contract.driver_rigs import GUEST_S_MAX, QemuRig, Rig, SimRig, guest_up, rig_of
from tests.contract.test_driver_moves import over

CD = Disk(
    name="cd1", pool="default", file="", size_mib=1, format=DiskFormat.RAW, serial="asv-cd1", slot=1, bus=DiskBus.CDROM
)
SATA = replace(CD, name="cd2", serial="asv-cd2", slot=2, bus=DiskBus.SATA_CDROM)
MOUNTED = "modprobe isofs; modprobe sr_mod; until [ -b /dev/sr0 ]; do sleep 0.1; done; mkdir -p /run/cd"
READ = f"{MOUNTED}; mount -t iso9660 -o ro /dev/sr0 /run/cd && cat /run/cd/what; umount /run/cd"


def iso(word: str, label: str = "TEST") -> bytes:
    made, out = pycdlib.PyCdlib(), BytesIO()
    made.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident=label)
    made.add_fp(BytesIO(word.encode()), len(word), "/WHAT.;1", rr_name="what", joliet_path="/what")
    made.write_fp(out)
    made.close()
    return out.getvalue()


@pytest.fixture(params=["simulated", "qemu"])
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    yield from rig_of(request.param, tmp_path)


@pytest.fixture
async def driver(rig: Rig) -> AsyncIterator[Driver]:
    made = rig.driver()
    await made.open()
    if isinstance(rig, QemuRig):
        for name in ("red", "blue"):
            (rig.pool / "incoming" / name).write_bytes(iso(name))
            info = await made.import_image("default", name, name, ImageFormat.ISO, "")
            assert (info.format, info.source, info.size_mib) == (DiskFormat.RAW, ImageFormat.ISO, 1)
    yield made
    await made.close()


def spec_of(rig: Rig, *drives: Disk, generation: int = 1) -> MachineSpec:
    spec = rig.spec(generation=generation)
    return replace(spec, disks=(*spec.disks, *drives))


def holding(image: str, drive: Disk = CD, *, force: bool = False) -> Disk:
    return replace(drive, image=image, force=force)


async def media(driver: Driver, spec: MachineSpec) -> tuple[tuple[int, str], ...]:
    hardware = (await driver.fit(spec)).hardware
    assert hardware is not None and hardware.misfits == (), hardware
    present = (await driver.look(spec.vm)).present
    assert present is not None and differences(replace(spec, born=None), hardware, present) == ()
    return hardware.media


async def read(rig: Rig, driver: Driver) -> str:
    """What the guest finds on the disc; a simulated one has no eyes."""
    if isinstance(rig, SimRig):
        return ""
    done = await driver.exec("web-1", ("sh", "-c", READ), b"", GUEST_S_MAX)
    return done.stdout.decode() or done.stderr.decode()


def seen(rig: Rig, word: str) -> str:
    return word if rig.real else ""


async def test_a_disc_is_changed_while_the_guest_runs(rig: Rig, driver: Driver) -> None:
    await driver.start(spec_of(rig, holding("red")))
    await guest_up(driver)
    assert await read(rig, driver) == seen(rig, "red")
    for _ in range(2):
        assert await media(driver, spec_of(rig, holding("blue"))) == ((1, "blue"),)
    assert await read(rig, driver) == seen(rig, "blue")
    for _ in range(2):
        assert await media(driver, spec_of(rig, CD)) == ((1, ""),)
    assert not rig.real or "No medium" in await read(rig, driver)
    # another agent adopts what is there, and goes on from it
    await driver.close()
    second = rig.driver()
    await second.open()
    assert await media(second, spec_of(rig, holding("red"))) == ((1, "red"),)
    assert await read(rig, second) == seen(rig, "red")
    await second.kill("web-1")
    await second.close()


async def test_a_drive_is_plugged_with_a_disc_and_unplugged(rig: Rig, driver: Driver) -> None:
    await rig.settled(driver, spec_of(rig))
    hardware = (await driver.fit(spec_of(rig, holding("red")))).hardware
    assert hardware is not None and (hardware.media, hardware.misfits) == (((1, "red"),), ())
    assert 1 in hardware.slots and 1 not in dict(hardware.disk_mib)
    assert await read(rig, driver) == seen(rig, "red")
    away = replace(spec_of(rig), leaving=(1,))
    assert await media(driver, away) == ()
    assert await media(driver, spec_of(rig, CD)) == ((1, ""),)
    await driver.kill("web-1")


async def test_a_disc_stays_in_its_drive_when_the_guest_moves(rig: Rig, driver: Driver) -> None:
    there = rig.driver("n2")
    await there.open()
    changes = driver.changes()
    await rig.settled(driver, spec_of(rig, CD))
    assert await media(driver, spec_of(rig, holding("red"))) == ((1, "red"),)
    waiting = await there.receive(spec_of(rig, holding("red"), generation=2))
    await driver.send("web-1", waiting.address)
    assert (await over(changes)).status == "sent"
    await driver.kill("web-1")
    await there.activate("web-1")
    await there.resume("web-1")
    assert await media(there, spec_of(rig, holding("red"), generation=2)) == ((1, "red"),)
    assert await read(rig, there) == seen(rig, "red")
    assert await media(there, spec_of(rig, holding("blue"), generation=2)) == ((1, "blue"),)
    await there.kill("web-1")
    await there.close()


async def test_a_guest_that_holds_its_drive_is_asked_and_then_forced(tmp_path: Path) -> None:
    for rig in rig_of("qemu", tmp_path):
        assert isinstance(rig, QemuRig)
        driver = rig.driver()
        await driver.open()
        for name in ("red", "blue"):
            (rig.pool / "incoming" / name).write_bytes(iso(name))
            await driver.import_image("default", name, name, ImageFormat.ISO, "")
        await rig.settled(driver, spec_of(rig, CD))
        assert await media(driver, spec_of(rig, holding("red"))) == ((1, "red"),)
        hold = f"{MOUNTED}; mount -t iso9660 -o ro /dev/sr0 /run/cd && echo held"
        assert (await driver.exec("web-1", ("sh", "-c", hold), b"", GUEST_S_MAX)).stdout == b"held\n"
        hardware = (await driver.fit(spec_of(rig, holding("blue")))).hardware
        assert hardware is not None and hardware.media == ((1, "red"),)
        (misfit,) = hardware.misfits
        assert (misfit.what, misfit.slot, misfit.pending) == ("disk", 1, True) and "--force" in misfit.sentence
        assert await media(driver, spec_of(rig, holding("blue", force=True))) == ((1, "blue"),)
        await driver.kill("web-1")
        await driver.close()


async def test_a_sata_drive_is_there_from_the_start_only(tmp_path: Path) -> None:
    for rig in rig_of("qemu", tmp_path):
        assert isinstance(rig, QemuRig)
        driver = rig.driver()
        await driver.open()
        (rig.pool / "incoming" / "red").write_bytes(iso("red"))
        await driver.import_image("default", "red", "red", ImageFormat.ISO, "")
        await driver.start(spec_of(rig, holding("red", SATA)))
        await guest_up(driver)
        assert await read(rig, driver) == "red"
        assert await media(driver, spec_of(rig, SATA)) == ((2, ""),)
        both = (await driver.fit(spec_of(rig, SATA, replace(SATA, slot=3, name="cd3")))).hardware
        assert both is not None and both.media == ((2, ""),)
        assert "after its next restart" in both.misfits[0].sentence
        await driver.kill("web-1")
        await driver.close()


async def test_what_is_no_iso_is_refused(tmp_path: Path) -> None:
    for rig in rig_of("qemu", tmp_path):
        assert isinstance(rig, QemuRig)
        driver = rig.driver()
        await driver.open()
        (rig.pool / "incoming" / "a").write_bytes(bytes(1 << 20))
        with pytest.raises(BadImage, match="no ISO 9660"):
            await driver.import_image("default", "a", "a", ImageFormat.ISO, "")
        await driver.close()
