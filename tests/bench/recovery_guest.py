"""What a guest feels of its data coming home: `figures(...)` for recovery.py, and `python -m tests.bench.recovery_guest`.

copy_vs_convert   how fast the data of an idle guest comes home, by what `qemu-img convert` gives from that backup to that
                  pool, before and behind it
p99_ratio   the 99th percentile of a guest's 4 KiB direct writes (one after the other, without a pause) from its first on its backup
            until its data is home, by that of as many seconds right behind; by QEMU's own counts, with bounds 3 % apart
p99_rate    how fast the data comes home meanwhile, by how fast it does with a guest that does nothing, in the same run

The real driver and a real guest, without a cluster around them.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from proto.machine import Disk, DiskFormat, Layer, MachineSpec, Origin, birth
from services.node.drivers.qemu import disks
from services.node.drivers.qemu.driver import QemuDriver
from tests.bench.common import Options, options, report
from tests.bench.recovery_data import convert_s, noise
from tests.contract.driver_rigs import QemuRig, guest_up
from tests.guests import tiny_image

VM, BACKUP = "web-1", "b1-1"
SLOT = 1
HOME_S_MAX = 120.0
BEHIND_S_MAX = 8.0
BOUNDS = [round(10_000 * 1.03**n) for n in range(450)]
"""ns: from 10 us to 6 s"""
WRITER = "while :; do dd if=/dev/zero of=/dev/vdb bs=4k count=4096 oflag=direct 2>/dev/null; done"


def backup(rig: QemuRig, mib: int) -> Path:
    """Of one disk, full of what nothing compresses: its file."""
    disks.make_pool(rig.pool)
    folder = rig.pool / "backups" / "old-1" / BACKUP
    folder.mkdir(parents=True, mode=0o700)
    raw = rig.top / "noise"
    noise(raw, mib)
    target = folder / f"old-1-data.{BACKUP}.qcow2"
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(raw), str(target)], check=True)
    raw.unlink()
    return target


def spec_of(rig: QemuRig, generation: int, mib: int) -> MachineSpec:
    plain = rig.spec(VM, generation)
    file = f"old-1-data.{BACKUP}.qcow2"
    size = (rig.pool / "backups" / "old-1" / BACKUP / file).stat().st_size
    origin = Origin(vm="old-1", backup=BACKUP, pool="default", bytes=size)
    disk = Disk(
        name="data", pool="default", file=f"{VM}-data.r1-{generation}.qcow2", size_mib=mib, format=DiskFormat.QCOW2,
        serial="data-1", slot=SLOT, layers=(Layer(file=file, format=DiskFormat.QCOW2, leaving=True, origin=origin),),
    )  # fmt: skip
    spec = replace(plain, disks=(*plain.disks, disk))
    return replace(spec, born=birth(spec))


class Guest:
    """One that runs on the backup, with nothing copied yet."""

    def __init__(self, driver: QemuDriver, spec: MachineSpec) -> None:
        self.driver, self.spec = driver, spec

    async def begin(self, writes: bool) -> None:
        await self.driver.start(replace(self.spec, born=None))
        await guest_up(self.driver)
        if writes:
            script = f"({WRITER}) </dev/null >/dev/null 2>&1 &"
            done = await self.driver.exec(VM, ("/bin/sh", "-c", script), b"", 30.0)
            assert (done.exit_code, done.error) == (0, ""), done

    async def home_s(self) -> float:
        """Seconds until the disk stands on nothing."""
        begun = time.perf_counter()
        while time.perf_counter() - begun < HOME_S_MAX:
            machine = await self.driver.fit(self.spec)
            assert machine.hardware is not None
            if dict(machine.hardware.chains).get(SLOT) == (self.spec.disks[1].file,):
                return time.perf_counter() - begun
            await asyncio.sleep(0.02)
        raise AssertionError("its data did not come home")

    async def counted(self) -> None:
        """From now on its writes are counted by fine bounds."""
        words = {"id": await self._device(), "boundaries-write": BOUNDS}
        await self.driver._fleet.vms[VM].do("block-latency-histogram-set", words)

    async def p99_us(self) -> float:
        stats = await self._stats()
        bins = list(map(int, stats["stats"]["wr_latency_histogram"]["bins"]))
        left = 0.99 * sum(bins)
        assert left > 100, f"only {sum(bins)} writes"
        for n, count in enumerate(bins):
            left -= count
            if left <= 0:
                return BOUNDS[min(n, len(BOUNDS) - 1)] / 1000
        raise AssertionError("no writes")

    async def end(self) -> None:
        await self.driver.kill(VM)

    async def _device(self) -> str:
        return str((await self._stats())["qdev"])

    async def _stats(self) -> dict[str, Any]:
        found = await self.driver._fleet.vms[VM].do("query-blockstats")
        return next(one for one in found if f"disk{SLOT}-dev" in str(one.get("qdev", "")))


async def measure(wanted: Options, rig: QemuRig, mib: int, file: Path) -> dict[str, Any]:
    driver = rig.driver()
    await driver.open()
    try:
        idle = Guest(driver, spec_of(rig, 1, mib))
        await idle.begin(writes=False)
        before_s = await asyncio.to_thread(convert_s, file, rig.pool)
        idle_s = await idle.home_s()
        await idle.end()
        converted_s = (before_s + await asyncio.to_thread(convert_s, file, rig.pool)) / 2
        busy = Guest(driver, spec_of(rig, 2, mib))
        await busy.begin(writes=True)
        await busy.counted()
        busy_s = await busy.home_s()
        during = await busy.p99_us()
        await busy.counted()
        await asyncio.sleep(min(busy_s, BEHIND_S_MAX))  # as long is looked at what is normal
        normal = await busy.p99_us()
        await busy.end()
    finally:
        await driver.close()
    wanted.say(f"{mib} MiB converted: {converted_s:.1f} s")
    wanted.say(f"{mib} MiB home: idle {idle_s:.1f} s, with writes {busy_s:.1f} s; p99 {during:.0f} us, {normal:.0f} behind")
    return {
        "copy_vs_convert": round(converted_s / idle_s, 2),
        "copy_mibps": round(mib / idle_s),
        "p99_ratio": round(during / normal, 2),
        "p99_rate": round(idle_s / busy_s, 2),
        "p99_us": round(during),
        "p99_normal_us": round(normal),
    }


def figures(wanted: Options) -> dict[str, Any]:
    top = Path(tempfile.mkdtemp(prefix="asvhome"))
    top.chmod(0o755)
    rig, mib = QemuRig(top, tiny_image()), 1024 if wanted.quick else 4096
    try:
        file = backup(rig, mib)
        return asyncio.run(measure(wanted, rig, mib, file))
    finally:
        rig.end()
        shutil.rmtree(top, ignore_errors=True)


def main() -> None:
    report(**figures(options("what a guest feels of its data coming home")))


if __name__ == "__main__":
    main()
