"""What a snapshot of a running guest takes, how long the guest stands still for it, and what the platform adds to doing it by hand.

python -m tests.bench.snapshots [--quick] [--json]

take_ms      request sent -> its task is done, median; likewise
frozen_ms    the guest's file systems stood still, as the agent measured it
delete_ms    the snapshot deleted, what the guest wrote before it (4 MiB) merged upwards
*_qmp_ms     the same done by hand over QMP and the guest's agent (new file, freeze, transaction, thaw; stream, node and file
             away), on a guest of the same kind in the same run, in turn with the above
added_ms     what the platform adds to taking one over doing it by hand: the difference of the medians
"""

from __future__ import annotations

import asyncio
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from services.node.drivers.qemu import devices
from services.node.drivers.qemu.chains import Chain, chains
from services.node.drivers.qemu.driver import QemuDriver
from tests.bench.common import Options, options, report
from tests.bench.start import Embedded
from tests.contract.driver_rigs import QemuRig, guest_up
from tests.contract.test_driver_snapshots import topped
from tests.guests import tiny_image

VM = "web-1"
DONE_S_MAX = 30.0
SCRIPT = "until grep -q ' /data ' /proc/mounts; do sleep 0.1; done; head -c 4194304 /dev/urandom > /data/kept; sync"

type Took = dict[str, float]
"""take, frozen, delete: milliseconds of one round"""


class Platform:
    """Asks the API of a cluster."""

    def __init__(self, cluster: Embedded) -> None:
        self.cluster, self.count = cluster, 0

    async def write(self) -> None:
        end = time.monotonic() + DONE_S_MAX
        while time.monotonic() < end:
            try:
                body = {"argv": ["/bin/sh", "-c", SCRIPT]}
                said = await asyncio.to_thread(self.cluster.call, "POST", f"/v1/vms/{VM}/exec", body)
            except AssertionError:  # its agent does not answer yet
                continue
            assert said["exit_code"] == 0, said
            return
        raise AssertionError("the guest did not come up")

    async def round(self) -> Took:
        self.count += 1
        one = f"/v1/vms/{VM}/snapshots/s{self.count}"
        take = await asyncio.to_thread(self._timed, "POST", f"/v1/vms/{VM}/snapshots", {"name": f"s{self.count}"})
        shown = self.cluster.call("GET", one)
        assert shown["consistency"] == "filesystem", shown
        delete = await asyncio.to_thread(self._timed, "DELETE", one, None)
        return {"take": take, "frozen": shown["frozen_ms"], "delete": delete}

    def _timed(self, method: str, path: str, body: dict[str, Any] | None) -> float:
        begin = time.perf_counter()
        task = self.cluster.call(method, path, body)["task"]
        end = time.monotonic() + DONE_S_MAX
        while time.monotonic() < end:
            shown = self.cluster.call("GET", f"/v1/tasks/{task}")
            if shown["state"] != "running":
                assert shown["state"] == "done", shown
                return (time.perf_counter() - begin) * 1000
        raise AssertionError("the task did not end")


class ByHand:
    """Speaks QMP to a QEMU with the same machine, and to its guest's agent."""

    def __init__(self, rig: QemuRig, driver: QemuDriver) -> None:
        self.rig, self.driver, self.count = rig, driver, 0
        self.disk = rig.spec(VM).disks[0]
        self.folder = rig.pool / "disks"

    async def write(self) -> None:
        done = await self.driver.exec(VM, ("/bin/sh", "-c", SCRIPT), b"", DONE_S_MAX)
        assert (done.exit_code, done.error) == (0, ""), done

    async def round(self) -> Took:
        begin = time.perf_counter()
        frozen = await self._take()
        taken = time.perf_counter()
        await self._delete()
        return {"take": (taken - begin) * 1000, "frozen": frozen, "delete": (time.perf_counter() - taken) * 1000}

    async def _take(self) -> float:
        """How long its file systems stood still, in milliseconds."""
        self.count += 1
        vm, below = self.driver._fleet.vms[VM], (await self._chain()).nodes[0]
        self.disk = topped(self.disk, f"9-{self.count}")
        name = devices.over_id(0, f"9-{self.count}")
        await asyncio.to_thread(self._overlay)
        for words in devices.top_nodes(self.disk, str(self.rig.pool), True, name, None):
            await vm.do("blockdev-add", words)
        begin = time.perf_counter()
        assert await vm.agent.ask("guest-fsfreeze-freeze", timeout_s=DONE_S_MAX) >= 1
        actions = [{"type": "blockdev-snapshot", "data": {"node": below, "overlay": name}}]
        await vm.do("transaction", {"actions": actions})
        assert await vm.agent.ask("guest-fsfreeze-thaw", timeout_s=DONE_S_MAX) >= 1
        return (time.perf_counter() - begin) * 1000

    async def _delete(self) -> None:
        vm, chain = self.driver._fleet.vms[VM], await self._chain()
        top, old, base = chain.nodes
        words = {"job-id": "hand", "device": top, "base-node": base, "backing-file": "../images/tiny/disk.qcow2"}
        await vm.do("block-stream", words)
        while await vm.do("query-block-jobs"):
            await asyncio.sleep(0.002)
        for node in (old, f"{old}-file"):
            await vm.do("blockdev-del", {"node-name": node})
        (self.folder / self.disk.layers[0].file).unlink()
        self.disk = replace(self.disk, layers=())

    async def _chain(self) -> Chain:
        return (await chains(self.driver._fleet.vms[VM]))[0]

    def _overlay(self) -> None:
        path = self.folder / self.disk.file
        words = ["-u", "-b", self.disk.layers[0].file, "-F", "qcow2", str(path), f"{self.disk.size_mib}M"]
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *words], check=True)
        owner = (self.folder / self.disk.layers[0].file).stat()
        shutil.chown(path, owner.st_uid, owner.st_gid)


async def measure(wanted: Options, cluster: Embedded, rig: QemuRig) -> dict[str, Any]:
    driver = rig.driver()
    await driver.open()
    sides: dict[str, Platform | ByHand] = {"": Platform(cluster), "_qmp": ByHand(rig, driver)}
    took: dict[str, list[Took]] = {side: [] for side in sides}
    rounds = 5 if wanted.quick else 10
    try:
        await driver.start(rig.spec(VM))
        await guest_up(driver, VM)
        for n in range(rounds):
            wanted.say(f"round {n + 1}")
            for name, side in sides.items():
                await side.write()
                took[name].append(await side.round())
    finally:
        await driver.kill(VM)
        await driver.close()

    def median(side: str, what: str) -> float:
        return statistics.median(each[what] for each in took[side])

    figures = {f"{what}{side}_ms": round(median(side, what)) for side in sides for what in ("take", "frozen", "delete")}
    return figures | {"added_ms": round(median("", "take") - median("_qmp", "take")), "rounds": rounds}


def main() -> None:
    wanted = options("what a snapshot takes, and what the platform adds to it")
    top = Path(tempfile.mkdtemp(prefix="asvsnap"))
    top.chmod(0o755)
    rig = QemuRig(top / "by-hand", tiny_image())
    cluster = Embedded()
    try:
        cluster.up()
        cluster.call("POST", "/v1/vms", {"name": VM, "vcpus": 1, "memory_mib": 160, "image": "tiny", "start": True})
        cluster.until(VM, "running")
        figures = asyncio.run(measure(wanted, cluster, rig))
    finally:
        cluster.close()
        rig.end()
        shutil.rmtree(top, ignore_errors=True)
    report(**figures)


if __name__ == "__main__":
    main()
