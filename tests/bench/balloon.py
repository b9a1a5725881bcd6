"""How fast a real guest of 1 GiB, its memory full of page cache, gives most of it back when its balloon is to leave it 256 MiB.

python -m tests.bench.balloon [--quick] [--json]

half_gib_ms    order -> the host has 500 MiB of the process back, median over guests that were just booted
given_mib      what the host has back once the balloon has come to its target, median
settled_ms     order -> the balloon is at its target, median
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from pathlib import Path

from proto.node import MemoryTarget
from services.node.drivers.qemu.driver import QemuDriver
from tests.bench.common import options, report
from tests.contract.driver_rigs import QemuRig, guest_up
from tests.contract.test_memory_guests import Memory, fill_cache, resident_mib, sized, until
from tests.guests import tiny_image

GIVES_S_MAX = 60.0
WANTED_MIB = 500
VM = "big"


async def once(rig: QemuRig, driver: QemuDriver) -> tuple[float, float, int]:
    """(ms until WANTED_MIB are back, ms until the target, MiB that are back then)"""
    await driver.start(sized(rig, VM, 1024))
    await guest_up(driver, VM)
    await fill_cache(driver, VM)
    before = await resident_mib(driver, VM)
    async with Memory(driver) as memory:
        begun = time.perf_counter()
        memory.order(MemoryTarget(vm=VM, generation=1, target_mib=256))
        async with asyncio.timeout(GIVES_S_MAX):
            while before - await resident_mib(driver, VM) < WANTED_MIB:
                await asyncio.sleep(0.02)
        back_ms = (time.perf_counter() - begun) * 1000
        await until(lambda: memory.keeper.plan.settled, GIVES_S_MAX)
        settled_ms = (time.perf_counter() - begun) * 1000
        given = before - await resident_mib(driver, VM)
    await driver.kill(VM)
    return back_ms, settled_ms, given


async def measure(rounds: int) -> list[tuple[float, float, int]]:
    found = []
    with tempfile.TemporaryDirectory(prefix="asv-balloon-") as top:
        for number in range(rounds):
            rig = QemuRig(Path(top) / str(number), tiny_image())
            driver = QemuDriver("n1", rig.top / "n1", {"default": rig.pool}, cache=Path(top) / "probes")
            await driver.open()
            try:
                found.append(await once(rig, driver))
            finally:
                await driver.kill(VM)
                await driver.close()
                rig.end()
    return found


def main() -> None:
    wished = options("what a balloon gives back, and how fast")
    found = asyncio.run(measure(2 if wished.quick else 5))
    back, settled, given = (statistics.median(each) for each in zip(*found, strict=True))
    report(half_gib_ms=round(back), settled_ms=round(settled), given_mib=round(given), rounds=len(found))


if __name__ == "__main__":
    main()
