"""The DriverMemory contract, kept by the simulated and by the real driver."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from proto.machine import birth
from proto.mapping import Backing, Region, Space, WhyNot
from services.node.drivers import Driver, NoSuchVm
from services.node.drivers.memory import Untranslatable
from tests.contract.driver_rigs import QemuRig, Rig, SimRig
from tests.guests import tiny_image

TEXT = 0xFFFFFFFF81000000
"""where a Linux kernel's code begins unless it was moved"""


@pytest.fixture(params=["simulated", "qemu"])
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    if request.param == "simulated":
        yield SimRig()
        return
    if shutil.which("qemu-system-x86_64") is None:
        pytest.skip("qemu-system-x86_64 is not installed")
    qemu = QemuRig(tmp_path, tiny_image())
    try:
        yield qemu
    finally:
        qemu.end()


@pytest.fixture
async def driver(rig: Rig) -> AsyncIterator[Driver]:
    made = rig.driver()
    await made.open()
    yield made
    await made.close()


async def test_questions_about_a_vm_that_is_not_there(driver: Driver) -> None:
    assert driver.memory.vms() == {}
    for question in (driver.memory.use, driver.memory.regions):
        with pytest.raises(NoSuchVm, match="nobody"):
            await question("nobody")
    with pytest.raises(NoSuchVm, match="nobody"):
        await driver.memory.translate("nobody", TEXT, 0)


async def test_the_regions_are_the_memory_and_nothing_else(rig: Rig, driver: Driver) -> None:
    spec = rig.spec()
    await driver.start(spec)
    assert driver.memory.vms() == {"web-1": 1}
    assert await driver.memory.regions("web-1") == (
        Region(name="below-4g", guest_address=0, size_mib=spec.shape.memory_mib, backing=Backing.ANONYMOUS),
    )
    await driver.kill("web-1")
    assert driver.memory.vms() == {}


async def test_an_address_goes_through_four_spaces(rig: Rig, driver: Driver) -> None:
    await rig.settled(driver, rig.spec())
    found = await driver.memory.translate("web-1", TEXT + 0x123, 0)
    assert [step.space for step in found.steps] == list(Space)
    assert found.generation == 1
    for step in found.steps:
        assert step.address % 4096 == 0x123, "the place in the page stays the same"
        assert step.first <= step.address <= step.last, step
        assert step.region
    assert found.steps[1].region.startswith("below-4g")
    assert "resident" in found.state and found.cell >= 0
    again = await driver.memory.translate("web-1", TEXT + 0x123, 0)
    assert [s.address for s in again.steps] == [s.address for s in found.steps]


async def test_what_cannot_be_followed_is_refused(rig: Rig, driver: Driver) -> None:
    await rig.settled(driver, rig.spec())
    for gva, pid, why in (
        (1 << 62, 0, WhyNot.BAD_ADDRESS),
        (0, 0, WhyNot.NOT_MAPPED),
        (TEXT, 1, WhyNot.NOT_MAPPED),
        (0x400000, 999_999, WhyNot.NO_PROCESS),
    ):
        with pytest.raises(Untranslatable) as refused:
            await driver.memory.translate("web-1", gva, pid)
        assert refused.value.why_not is why, str(refused.value)
        assert str(refused.value) and refused.value.remedy


async def test_what_a_vm_takes(rig: Rig, driver: Driver) -> None:
    spec = rig.spec()
    await rig.settled(driver, spec)
    use = await driver.memory.use("web-1")
    assert (use.vm, use.generation, use.nominal_mib, use.balloon_mib) == ("web-1", 1, 160, 160)
    assert use.resident_kib >= use.guest_resident_kib > 20 * 1024
    assert use.guest_resident_kib <= 160 * 1024
    assert use.guest_huge_kib <= use.huge_kib <= use.resident_kib
    assert sum(cell.kib for cell in use.cells) > 20 * 1024
    assert use.regions == await driver.memory.regions("web-1")


GIVES_S_MAX = 60.0
"""how long a guest may take to give, however busy the machine is"""


async def _comes_to(driver: Driver, mib: int) -> None:
    """Its guest does, as all that tell of it say."""
    async with asyncio.timeout(GIVES_S_MAX):
        while (await driver.memory.balloons())["web-1"].actual_mib != mib:
            await asyncio.sleep(0.02)
    assert [f.balloon_mib for f in await driver.memory.figures()] == [mib]
    use = await driver.memory.use("web-1")
    assert (use.nominal_mib, use.balloon_mib) == (416, mib)


async def test_a_vm_that_has_grown_has_all_of_its_memory_and_gives_of_it(rig: Rig, driver: Driver) -> None:
    plain = rig.spec()
    spec = replace(plain, born=birth(plain))
    await rig.settled(driver, spec)
    await driver.fit(replace(spec, shape=replace(spec.shape, memory_mib=416)))
    balloon = (await driver.memory.balloons())["web-1"]
    assert (balloon.nominal_mib, balloon.actual_mib) == (416, 416)
    await driver.memory.inflate("web-1", 352)
    await _comes_to(driver, 352)
    await driver.memory.inflate("web-1", 416)
    await _comes_to(driver, 416)
