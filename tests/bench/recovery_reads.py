"""What the map of first reads is worth when a backup lies on slow storage: `python -m tests.bench.recovery_reads [--json]`.

A guest's service begins: its guest mounts a file system of a recovered disk and reads, one after the other, 48 MiB of files that
lie between 600 MiB of others. The backup is served by a FUSE export of qemu-storage-daemon behind QEMU's throttle filter, at
8 MiB/s and 150 requests a second.

plain_s, mapped_s           order to start -> the service has read what it wants, without a map and with that of a run before
p99_plain_ms, p99_mapped_ms its reads meanwhile, by QEMU's own counts
at_once_plain_s, …          likewise, of a service that begins at the moment at which the copy does
map_bytes                   size of the file

Needs root and FUSE. The real driver and a real guest, without a cluster around them.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from proto.machine import MachineSpec
from services.node.drivers.qemu import disks, reads
from tests.bench.common import Options, options, report
from tests.bench.recovery_guest import BACKUP, BOUNDS, SLOT, VM, spec_of
from tests.contract.driver_rigs import QemuRig, guest_up
from tests.guests import tiny_image

MIBPS, IOPS = 8, 150
FILES, FILE_KIB, EVERY = 192, 256, 13
"""files that are read, the size of each, and one of how many is one of them"""
SIZE_MIB = 1024
SERVICE = (
    "set -e; mkdir -p /mnt; until grep -q ext4 /proc/filesystems; do sleep 0.1; done; mount -t ext4 -o ro /dev/vdb /mnt; "
    "i=0; while [ $i -lt {files} ]; do "
    "cat /mnt/d$((i * 89 % {files} % 16))/want$((i * 89 % {files})) >/dev/null; i=$((i + 1)); done"
)
SERVED_S_MAX = 120.0


def fill(folder: Path, file: Path) -> None:
    """A backup with a file system of which a part is wanted."""
    tree, raw = folder / "tree", folder / "raw"
    for n in range(FILES * EVERY):
        mine = n // EVERY
        inside = tree / f"d{mine % 16}"
        inside.mkdir(parents=True, exist_ok=True)
        name = f"want{mine}" if n % EVERY == 0 else f"other{n}"
        (inside / name).write_bytes(os.urandom(FILE_KIB << 10))
    subprocess.run(["mkfs.ext4", "-q", "-F", "-d", str(tree), str(raw), f"{SIZE_MIB}M"], check=True)
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", str(raw), str(file)], check=True)
    shutil.rmtree(tree)
    raw.unlink()


@contextmanager
def slow(file: Path, aside: Path) -> Iterator[None]:
    """The file is read through a throttle from now on."""
    moved = aside / "backup"
    file.rename(moved)
    file.touch(0o400)
    words = [
        "qemu-storage-daemon", "--object", f"throttle-group,id=t,x-bps-read={MIBPS << 20},x-iops-read={IOPS}",
        "--blockdev", f"file,node-name=f,filename={moved},read-only=on",
        "--blockdev", "throttle,node-name=s,throttle-group=t,file=f",
        "--export", f"fuse,id=e,node-name=s,mountpoint={file},writable=off",
    ]  # fmt: skip
    daemon = subprocess.Popen(words)
    try:
        while file.stat().st_size == 0:
            assert daemon.poll() is None, "the storage daemon ended"
            time.sleep(0.05)
        yield
    finally:
        daemon.terminate()
        daemon.wait()
        subprocess.run(["umount", "-l", str(file)], check=False, capture_output=True)
        file.unlink()
        moved.rename(file)


class Run:
    def __init__(self, rig: QemuRig, spec: MachineSpec) -> None:
        self.spec, self.driver = spec, rig.driver()

    async def figures(self, *, at_once: bool) -> tuple[float, float]:
        """(seconds until the service has read, p99 of reads in ms)."""
        await self.driver.open()
        fitting: asyncio.Task[None] | None = None
        try:
            begun = time.perf_counter()
            await self.driver.start(replace(self.spec, born=None))
            if at_once:
                await guest_up(self.driver)
                begun = time.perf_counter()
            fitting = asyncio.create_task(self._fit())
            await guest_up(self.driver)
            vm = self.driver._fleet.vms[VM]
            stats = await vm.do("query-blockstats")
            device = next(one["qdev"] for one in stats if f"disk{SLOT}-dev" in str(one.get("qdev", "")))
            await vm.do("block-latency-histogram-set", {"id": device, "boundaries-read": BOUNDS})
            done = await self.driver.exec(VM, ("sh", "-c", SERVICE.format(files=FILES)), b"", SERVED_S_MAX)
            took = time.perf_counter() - begun
            assert (done.exit_code, done.error, done.stderr) == (0, "", b""), done
            stats = await vm.do("query-blockstats")
            mine = next(one["stats"] for one in stats if one.get("qdev") == device)
            return took, _p99_ms(list(map(int, mine["rd_latency_histogram"]["bins"])))
        finally:
            if fitting is not None:
                fitting.cancel()
                await asyncio.wait([fitting])
            await self.driver.kill(VM)
            await self.driver.close()

    async def _fit(self) -> None:
        while True:
            await self.driver.fit(self.spec)
            await asyncio.sleep(0.05)


def _p99_ms(bins: list[int]) -> float:
    left = 0.99 * sum(bins)
    for n, count in enumerate(bins):
        left -= count
        if left <= 0:
            return BOUNDS[min(n, len(BOUNDS) - 1)] / 1e6
    raise AssertionError("no reads")


def measure(wanted: Options, rig: QemuRig) -> dict[str, Any]:
    kept = reads.place(rig.pool, "old-1", "data")
    file = next((rig.pool / "backups" / "old-1" / BACKUP).iterdir())
    found: dict[str, list[tuple[float, float]]] = {}
    generation = 0

    def run(name: str, *, at_once: bool, drill: bool = False) -> None:
        nonlocal generation
        generation += 1
        spec = spec_of(rig, generation, SIZE_MIB)
        if drill:
            data = replace(spec.disks[1], home_mibps=1)
            spec = replace(spec, disks=(spec.disks[0], data))
        with file.open("rb") as read:
            os.posix_fadvise(read.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        found.setdefault(name, []).append(asyncio.run(Run(rig, spec).figures(at_once=at_once)))
        wanted.say(f"{name}: {found[name][-1]}")

    run("drill", at_once=False, drill=True)
    map = kept.read_bytes()
    for _ in range(2 if wanted.quick else 3):
        for at_once in (False, True):
            name = "at_once_" if at_once else ""
            kept.unlink(missing_ok=True)
            run(f"{name}plain", at_once=at_once)
            kept.write_bytes(map)
            run(f"{name}mapped", at_once=at_once)
    figures: dict[str, Any] = {"map_bytes": len(map), "map_mib": round(reads.read(kept).bytes / (1 << 20), 1)}
    for name, each in found.items():
        figures[f"{name}_s"] = round(statistics.median(s for s, _ in each), 1)
        figures[f"p99_{name}_ms"] = round(statistics.median(p for _, p in each), 1)
    return figures


def main() -> None:
    wanted = options("what the map of first reads is worth")
    top = Path(tempfile.mkdtemp(prefix="asvreads"))
    top.chmod(0o755)
    rig = QemuRig(top, tiny_image())
    try:
        disks.make_pool(rig.pool)
        folder = rig.pool / "backups" / "old-1" / BACKUP
        folder.mkdir(parents=True, mode=0o700)
        file = folder / f"old-1-data.{BACKUP}.qcow2"
        fill(top, file)
        with slow(file, top):
            report(**measure(wanted, rig))
    finally:
        with suppress(OSError):
            rig.end()
        shutil.rmtree(top, ignore_errors=True)


if __name__ == "__main__":
    main()
