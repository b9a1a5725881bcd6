"""How long until what was asked for is usable inside a running guest, and what the platform adds to doing it by hand.

python -m tests.bench.hotplug [--quick] [--json]

vcpu_ms      a vCPU: request sent -> the guest runs on it (nproc), median; likewise
memory_ms    256 MiB more: in the guest's MemTotal
disk_ms      a disk of 64 MiB: the guest sees its size
nic_ms       a NIC: the guest sees it
unplug_ms    the disk and the NIC, detached: gone in the guest, the slower of the two medians
*_qmp_ms     the same done by hand over QMP, on a guest of the same kind in the same run, in turn with the above
added_ms     median of what the platform adds over doing it by hand, over the six operations
look_ms      one look into the guest, by which all of this is seen: by the API, and (look_qmp_ms) by the agent's channel
"""

from __future__ import annotations

import asyncio
import base64
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from proto.machine import Disk, DiskFormat, MachineSpec, Nic, NicKind, birth
from services.node.drivers.qemu import argv, devices
from services.node.drivers.qemu.driver import QemuDriver
from tests.bench.common import Options, options, report
from tests.bench.start import Embedded
from tests.contract.driver_rigs import QemuRig, guest_up
from tests.guests import tiny_image

MIB = 1024 * 1024
GROWTH_MIB = 256
DISK_MIB = 64
SEEN_S_MAX = 30.0
VM = "plug"
LOOK = (
    "nproc; awk '/MemTotal/ {print int($2 / 1024)}' /proc/meminfo;"
    " cat /sys/block/vdb/size 2>/dev/null || echo 0; ls /sys/class/net | grep -c eth || true"
)
OPERATIONS = ("vcpu", "memory", "disk", "nic", "disk_unplug", "nic_unplug")
SLOT_DISK, SLOT_NIC = 1, 2

type Seen = tuple[int, ...]
"""vCPUs, MiB, sectors of the second disk, NICs: as the guest says"""

DONE: dict[str, Callable[[Seen, Seen], bool]] = {
    "vcpu": lambda was, now: now[0] == was[0] + 1,
    "memory": lambda was, now: now[1] > was[1] + GROWTH_MIB // 2,
    "disk": lambda _, now: now[2] == DISK_MIB * 2048,
    "nic": lambda was, now: now[3] == was[3] + 1,
    "disk_unplug": lambda _, now: now[2] == 0,
    "nic_unplug": lambda was, now: now[3] == was[3] - 1,
}


class Platform:
    """Asks the API of a cluster."""

    def __init__(self, cluster: Embedded) -> None:
        self.cluster = cluster
        self.tasks: list[str] = []

    async def look(self) -> Seen:
        body = {"argv": ["/bin/sh", "-c", LOOK]}
        said = await asyncio.to_thread(self.cluster.call, "POST", f"/v1/vms/{VM}/exec", body)
        return tuple(int(word) for word in base64.b64decode(said["stdout_b64"]).split())

    async def do(self, operation: str) -> None:
        vm = f"/v1/vms/{VM}"
        match operation:
            case "vcpu":
                asked: tuple[str, str, Any] = ("POST", f"{vm}/size", {"vcpus": 2})
            case "memory":
                asked = ("POST", f"{vm}/size", {"memory_mib": 128 + GROWTH_MIB})
            case "disk":
                asked = ("POST", f"{vm}/disks", {"size_mib": DISK_MIB})
            case "nic":
                asked = ("POST", f"{vm}/nics", {})
            case "disk_unplug":
                asked = ("DELETE", f"{vm}/disks/{await self._last('disks')}?remove=true", None)
            case _:
                asked = ("DELETE", f"{vm}/nics/{await self._last('nics')}", None)
        accepted = await asyncio.to_thread(self.cluster.call, *asked)
        self.tasks.append(accepted["task"])

    async def _last(self, kind: str) -> str:
        shown = await asyncio.to_thread(self.cluster.call, "GET", f"/v1/vms/{VM}")
        return str(shown[kind][-1]["name"])

    async def settle(self) -> None:
        """Until the last request's task has ended."""
        end = time.monotonic() + SEEN_S_MAX
        while time.monotonic() < end:
            task = await asyncio.to_thread(self.cluster.call, "GET", f"/v1/tasks/{self.tasks[-1]}")
            if task["state"] != "running":
                assert task["state"] == "done", task
                return
        raise AssertionError("the task did not end")

    async def restart(self) -> None:
        if self.tasks:
            await asyncio.to_thread(self.cluster.call, "POST", f"/v1/vms/{VM}/stop", {"deadline_s": 0})
            await asyncio.to_thread(self.cluster.until, VM, "stopped")
            for body in ({"vcpus": 1}, {"memory_mib": 128}):
                await asyncio.to_thread(self.cluster.call, "POST", f"/v1/vms/{VM}/size", body)
            await asyncio.to_thread(self.cluster.call, "POST", f"/v1/vms/{VM}/start")
        await asyncio.to_thread(self.cluster.until, VM, "running")
        await _until(self._up, bool)

    async def _up(self) -> bool:
        try:
            return bool(await self.look())
        except (AssertionError, ValueError):
            return False


class ByHand:
    """Speaks QMP to a QEMU with the same machine."""

    def __init__(self, rig: QemuRig, driver: QemuDriver) -> None:
        self.rig, self.driver = rig, driver
        self.spec: MachineSpec = rig.spec(VM)
        self.file = f"{VM}-by-hand.qcow2"

    async def look(self) -> Seen:
        done = await self.driver.exec(VM, ("/bin/sh", "-c", LOOK), b"", 30.0)
        return tuple(int(word) for word in done.stdout.split())

    async def do(self, operation: str) -> None:
        say = self.driver._fleet.vms[VM].do
        disk = Disk(
            name="data", pool="default", file=self.file, size_mib=DISK_MIB, format=DiskFormat.QCOW2, serial="s", slot=SLOT_DISK
        )
        nic = Nic(name="lan2", kind=NicKind.USER, mac="52:54:00:aa:bb:02", slot=SLOT_NIC)
        match operation:
            case "vcpu":
                await say("device_add", argv.vcpu(self.spec.shape.cpu_model, 1))
            case "memory":
                wish = {"path": f"/machine/peripheral/{argv.MEMORY_DEVICE}", "property": "requested-size"}
                await say("qom-set", {**wish, "value": GROWTH_MIB * MIB})
            case "disk":
                path = self.rig.pool / "disks" / self.file
                path.unlink(missing_ok=True)
                await asyncio.to_thread(self._blank, path)
                for node in devices.disk_nodes(disk, str(self.rig.pool), True, ()):
                    await say("blockdev-add", node)
                for device in devices.disk_devices(disk):
                    await say("device_add", device)
            case "nic":
                await say("netdev_add", devices.nic_backend(nic))
                await say("device_add", devices.nic_device(nic))
            case "disk_unplug":
                await say("device_del", {"id": devices.device_id(devices.disk_id(SLOT_DISK))})
            case _:
                await say("device_del", {"id": devices.device_id(devices.nic_id(SLOT_NIC))})

    def _blank(self, path: Path) -> None:
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(path), f"{DISK_MIB}M"], check=True)
        owner = (self.rig.pool / "disks" / self.spec.disks[0].file).stat()
        shutil.chown(path, owner.st_uid, owner.st_gid)

    async def settle(self) -> None:
        pass

    async def restart(self) -> None:
        await self.driver.kill(VM)
        generation = self.spec.generation + 1
        self.spec = replace(self.spec, generation=generation, born=birth(self.spec))
        await self.driver.start(self.spec)
        await guest_up(self.driver, VM)


async def _until[T](look: Callable[[], Awaitable[T]], enough: Callable[[T], bool]) -> T:
    end = time.monotonic() + SEEN_S_MAX
    while time.monotonic() < end:
        if enough(now := await look()):
            return now
    raise AssertionError("not seen in the guest")


async def one_round(side: Platform | ByHand) -> dict[str, float]:
    """Milliseconds of each operation, on a guest just booted."""
    await side.restart()
    took: dict[str, float] = {}
    seen = await side.look()
    for operation in OPERATIONS:
        was, begin = seen, time.perf_counter()
        await side.do(operation)
        seen = await _until(side.look, partial(DONE[operation], was))
        took[operation] = (time.perf_counter() - begin) * 1000
        await side.settle()
    begin = time.perf_counter()
    await side.look()
    took["look"] = (time.perf_counter() - begin) * 1000
    return took


async def measure(wanted: Options, cluster: Embedded, rig: QemuRig) -> dict[str, Any]:
    driver = rig.driver()
    await driver.open()
    sides: dict[str, Platform | ByHand] = {"ours": Platform(cluster), "qmp": ByHand(rig, driver)}
    took: dict[str, list[dict[str, float]]] = {"ours": [], "qmp": []}
    try:
        for n in range(4 if wanted.quick else 10):
            wanted.say(f"round {n + 1}")
            for name, side in sides.items():
                took[name].append(await one_round(side))
    finally:
        await driver.kill(VM)
        await driver.close()

    def median(side: str, operation: str) -> float:
        return statistics.median(each[operation] for each in took[side])

    added = statistics.median(median("ours", o) - median("qmp", o) for o in OPERATIONS)
    figures: dict[str, Any] = {}
    for suffix, who in (("", "ours"), ("_qmp", "qmp")):
        figures |= {f"{o}{suffix}_ms": round(median(who, o)) for o in ("vcpu", "memory", "disk", "nic", "look")}
        figures[f"unplug{suffix}_ms"] = round(max(median(who, "disk_unplug"), median(who, "nic_unplug")))
    return figures | {"added_ms": round(added), "rounds": len(took["ours"])}


def main() -> None:
    wanted = options("what hot plug takes, and what the platform adds to it")
    top = Path(tempfile.mkdtemp(prefix="asvplug"))
    top.chmod(0o755)
    rig = QemuRig(top / "by-hand", tiny_image())
    cluster = Embedded()
    try:
        cluster.up()
        cluster.call("POST", "/v1/vms", {"name": VM, "vcpus": 1, "memory_mib": 128, "image": "tiny", "start": True})
        figures = asyncio.run(measure(wanted, cluster, rig))
    finally:
        cluster.close()
        rig.end()
        shutil.rmtree(top, ignore_errors=True)
    report(**figures)


if __name__ == "__main__":
    main()
