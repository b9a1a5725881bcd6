"""A real guest's memory, found again where the translation says it lies: in the QEMU process, and in the machine."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from proto.mapping import Space, Translation
from services.node.drivers.qemu.driver import QemuDriver
from services.node.host.pages import PAGE, entries
from tests.contract.driver_rigs import QemuRig, guest_up
from tests.guests import tiny_image

pytestmark = [
    pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="qemu-system-x86_64 is not installed"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may see where pages lie"),
]


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[QemuRig]:
    made = QemuRig(tmp_path, tiny_image())
    yield made
    made.end()


@pytest.fixture
async def driver(rig: QemuRig) -> AsyncIterator[QemuDriver]:
    made = rig.driver()
    await made.open()
    await rig.settled(made, rig.spec())
    yield made
    await made.close()


@pytest.fixture
async def young(rig: QemuRig) -> AsyncIterator[QemuDriver]:
    """What its guest has not touched, nobody has."""
    made = rig.driver()
    await made.open()
    await made.start(rig.spec())
    await guest_up(made)
    yield made
    await made.close()


def address(found: Translation, space: Space) -> int:
    return next(step.address for step in found.steps if step.space is space)


def peek(pid: int, hva: int, count: int) -> bytes:
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        return os.pread(memory.fileno(), count, hva)


async def bytes_at(driver: QemuDriver, found: Translation, count: int) -> bytes:
    """Read from the QEMU process, once its page table was seen to lead to the machine's page that was named."""
    pid, hva = (await driver.info("web-1")).pid, address(found, Space.HOST_VIRTUAL)
    frame = entries(pid, hva, 1)[0].frame
    assert frame * PAGE + hva % PAGE == address(found, Space.MACHINE)
    return peek(pid, hva, count)


async def test_the_kernels_banner_lies_where_it_is_said(driver: QemuDriver) -> None:
    script = "grep ' linux_banner$' /proc/kallsyms; cat /proc/version"
    said = (await driver.exec("web-1", ("/bin/sh", "-c", script), b"", 20.0)).stdout
    symbol, _, version = said.partition(b"\n")
    found = await driver.memory.translate("web-1", int(symbol.split()[0], 16), 0)
    assert await bytes_at(driver, found, len(version)) == version
    assert found.steps[0].page_kib in (4, 2048)
    assert found.steps[1].address == found.steps[0].address - 0xFFFFFFFF80000000, "the kernel was not moved"


async def test_a_program_of_the_guest_lies_where_it_is_said(driver: QemuDriver) -> None:
    """init is busybox, linked to 0x400000: an ELF file's first bytes."""
    found = await driver.memory.translate("web-1", 0x400000, 1)
    assert await bytes_at(driver, found, 4) == b"\x7fELF"
    assert "busybox" in found.steps[0].region and "process 1" in found.steps[0].region
    assert (found.steps[0].first, found.steps[0].page_kib) == (0x400000, 4)


async def test_memory_that_was_never_touched_is_nowhere(young: QemuDriver) -> None:
    """The guest maps all its memory; the host gives a page only when it is first used."""
    direct_map = 0xFFFF888000000000
    seen = set()
    for mib in range(1, 160, 4):
        found = await young.memory.translate("web-1", direct_map + (mib << 20), 0)
        seen.add(found.state[0])
        assert len(found.steps) == (4 if found.state[0] == "resident" else 3)
        assert (found.cell >= 0) == (found.state[0] == "resident")
    assert seen == {"resident", "untouched"}
