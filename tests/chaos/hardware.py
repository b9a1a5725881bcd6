"""Random changes of a running guest's hardware, with its agent killed among them, leave log, QEMU and guest in agreement.

python -m tests.chaos.hardware [--seed N] [--steps N]

Each step plugs, unplugs, grows, limits or resizes something, pulls or puts in a cable; some agents are killed right behind. What
a step may not do is refused, which is an answer too. Every LOOK_EVERY steps, and in the end, the log (`vm show`), QEMU (its agent's
look, and in the end the monitor itself, past any agent) and the guest (from inside) are held beside each other. A failure names
the seed and the latest steps.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import http.client
import json
import os
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from services.node.drivers.qemu.look import device_of
from services.node.drivers.qemu.qmp import Qmp

VM = "chaos"
STEPS, LOOK_EVERY = 200, 20
KILLS_PCT = 5
DISKS_MAX, NICS_MAX = 5, 3
WAIT_S_MAX = 60.0
POLL_S = 0.03
MEMORY_MIB = tuple(range(128, 513, 64))
SLACK_MIB, SLACK_PCT = 24, 4
"""what the guest's kernel takes of memory that is added"""
LEFT_OPEN = "QEMU has not closed its file"
"""QEMU 7.2 sometimes keeps an NVMe disk's file open after its guest has let it go (docs/io.md): told, and counted"""
INSIDE = r"""
nproc; awk '/MemTotal/ {print int($2 / 1024)}' /proc/meminfo
for b in /sys/block/vd* /sys/block/sd* /sys/block/nvme*; do [ -e $b ] && echo disk $(cat $b/size); done
for n in /sys/class/net/eth*; do
  [ -e $n ] && ip link set ${n##*/} up 2>/dev/null && echo nic $(cat $n/address) $(cat $n/carrier 2>/dev/null || echo 0)
done
true
"""


class Api:
    """The HTTP API of an embedded cluster."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.token = (home / "tokens" / "admin.token").read_text().strip()

    def record(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.home / "cluster.json").read_text())
        return found

    def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        api = http.client.HTTPConnection("127.0.0.1", self.record()["ports"]["gateway"], timeout=WAIT_S_MAX)
        text = None if body is None else json.dumps(body)
        api.request(method, path, text, {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"})
        answer = api.getresponse()
        said = json.loads(answer.read() or b"{}")
        api.close()
        return answer.status, said

    def get(self, path: str) -> Any:
        status, said = self.call("GET", path)
        assert status == 200, said
        return said

    def inside(self, script: str) -> str:
        status, said = self.call("POST", f"/v1/vms/{VM}/exec", {"argv": ["/bin/sh", "-c", script], "timeout_s": 20})
        assert status == 200 and said["exit_code"] == 0, said
        return base64.b64decode(said["stdout_b64"]).decode()


class Chaos:
    def __init__(self, home: Path, seed: int) -> None:
        self.api, self.random, self.seed = Api(home), Random(f"chaos {seed}"), seed
        self.told: list[str] = []
        self.counts: Counter[str] = Counter()
        self.sizes = 16
        self.left: set[str] = set()
        """disks whose unplug is not waited for any more"""
        self.base_mib = self.seen()[1] - self.shown()["memory_mib"]

    def shown(self) -> dict[str, Any]:
        found: dict[str, Any] = self.api.get(f"/v1/vms/{VM}")
        return found

    # --- steps ----------------------------------------------------------------------------------------------------

    def step(self) -> None:
        has = self.shown()
        name, (method, path, body) = self.choose(has)
        kills = self.random.randrange(100) < KILLS_PCT
        status, said = self.api.call(method, f"/v1/vms/{VM}/{path}", body)
        self.told.append(f"{name}{' + kill' if kills else ''}: {method} {path} {body or ''} -> {status} {said.get('reason', '')}")
        if status not in (200, 202):
            assert status in (409, 422), self.failed(f"{name} was answered {status}: {said}")
            self.counts[f"refused {said.get('reason')}"] += 1
            return
        self.counts[name] += 1
        if kills:
            self.counts["kill"] += 1
            self.kill(has["node"])
        self.until(lambda: self.ended(said["task"]), f"the end of {name}")

    def choose(self, has: dict[str, Any]) -> tuple[str, tuple[str, str, Any]]:
        disks, nics, random = has["disks"][1:], has["nics"], self.random
        disk, nic = (random.choice(some) if some else None for some in (disks, nics))
        self.sizes += 1
        limits = {"iops": random.choice((0, 500, 5000)), "mibps": random.choice((0, 20))}
        steps: list[tuple[str, tuple[str, str, Any]]] = [
            ("vcpus", ("POST", "size", {"vcpus": random.randint(1, 3)})),
            ("memory", ("POST", "size", {"memory_mib": random.choice(MEMORY_MIB)})),
        ]
        if len(disks) < DISKS_MAX:
            bus = random.choice(("virtio-blk", "virtio-blk", "virtio-scsi", "nvme"))
            steps += [("plug disk", ("POST", "disks", {"size_mib": self.sizes, "bus": bus, "limits": limits}))] * 2
        if len(nics) < NICS_MAX:
            steps.append(("plug nic", ("POST", "nics", {"model": random.choice(("virtio", "e1000e"))})))
        if disk is not None:
            path = f"disks/{disk['name']}"
            steps.append(("unplug disk", ("DELETE", f"{path}?remove={random.choice(('true', 'false'))}", None)))
            steps.append(("grow disk", ("PATCH", path, {"size_mib": disk["size_mib"] + 100})))
            steps.append(("limit disk", ("PATCH", path, {"limits": limits})))
        if nic is not None:
            steps.append(("unplug nic", ("DELETE", f"nics/{nic['name']}", None)))
            steps.append(("cable", ("PATCH", f"nics/{nic['name']}", {"link": not nic.get("link", True)})))
        return random.choice(steps)

    def ended(self, task: str) -> bool:
        found = self.api.get(f"/v1/tasks/{task}")
        if found["state"] == "failed":
            self.told[-1] += f" (failed: {found['sentence']})"
            self.counts["ended short"] += 1
        if found["state"] == "running" and (left := self.left_open() - self.left):
            self.left |= left
            return True
        return bool(found["state"] != "running")

    def left_open(self) -> set[str]:
        return {one["name"] for one in self.shown()["unplugging"] if LEFT_OPEN in one["sentence"]}

    def kill(self, node: str) -> None:
        """SIGKILL; the supervisor starts another agent, and nobody waits for that."""
        pid = self.api.record()["children"][node]["mark"]["pid"]
        os.kill(pid, signal.SIGKILL)

        def back() -> bool:
            child = self.api.record()["children"][node]
            return bool(child["mark"] and child["mark"]["pid"] != pid and child["state"] == "ready")

        self.until(back, f"another agent of {node}")

    # --- agreement ------------------------------------------------------------------------------------------------

    def seen(self) -> tuple[int, int, list[int], list[tuple[str, bool]]]:
        """From inside: vCPUs, MiB, disk sizes in MiB, MAC addresses with their carrier."""
        lines = self.api.inside(INSIDE).splitlines()
        disks = sorted(int(line.split()[1]) // 2048 for line in lines if line.startswith("disk"))
        nics = sorted((line.split()[1], line.split()[2] == "1") for line in lines if line.startswith("nic"))
        return int(lines[0]), int(lines[1]), disks, nics

    def differences(self) -> list[str]:
        """Between log, QEMU as its agent sees it, and guest; none: they agree."""
        has, (vcpus, mib, disks, nics), io = self.shown(), self.seen(), self.api.get(f"/v1/vms/{VM}/io")["devices"]
        out = [f"drifts: {has['drifts']}"] if has["drifts"] else []
        out += [f"unplugging: {one}" for one in has["unplugging"] if LEFT_OPEN not in one["sentence"]]
        wanted_mib = self.base_mib + has["memory_mib"]
        if vcpus != has["vcpus"]:
            out.append(f"the guest uses {vcpus} vCPUs, the log says {has['vcpus']}")
        if abs(mib - wanted_mib) > SLACK_MIB + SLACK_PCT * has["memory_mib"] // 100:
            out.append(f"the guest has {mib} MiB, about {wanted_mib} are right for {has['memory_mib']}")
        if disks != sorted(disk["size_mib"] for disk in has["disks"]):
            out.append(f"the guest has disks of {disks} MiB, the log {sorted(d['size_mib'] for d in has['disks'])}")
        if [mac for mac, _ in nics] != sorted(nic["mac"] for nic in has["nics"]):
            out.append(f"the guest has NICs {nics}, the log {sorted(n['mac'] for n in has['nics'])}")
        readable = {nic["mac"]: nic.get("link", True) for nic in has["nics"] if nic.get("model", "virtio") == "virtio"}
        out += [f"the cable of {mac} is in: {up}" for mac, up in nics if mac in readable and up != readable[mac]]
        named = sorted(d["name"] for d in io if d["kind"] in ("disk", "nic"))
        if named != sorted(each["name"] for kind in ("disks", "nics") for each in has[kind]):
            out.append(f"QEMU has {named}")
        return out

    def agree(self) -> None:
        last: list[str] = []

        def agreed() -> bool:
            nonlocal last
            last = self.differences()
            return not last

        try:
            self.until(agreed, "agreement")
        except AssertionError as error:
            raise AssertionError(self.failed("; ".join(last) or str(error))) from None

    def until(self, look: Callable[[], bool], what: str) -> None:
        end, said = time.monotonic() + WAIT_S_MAX, ""
        while time.monotonic() < end:
            try:
                if look():
                    return
            except (AssertionError, OSError, ValueError, IndexError) as error:  # its agent is just being started
                said = str(error)
            time.sleep(POLL_S)
        raise AssertionError(self.failed(f"waited {WAIT_S_MAX} s for {what} {said}"))

    def failed(self, said: str) -> str:
        latest = "\n  ".join(self.told[-12:])
        return f"chaos --seed {self.seed} --steps {len(self.told)}: {said}\nthe latest steps:\n  {latest}"

    def run(self, steps: int) -> None:
        for number in range(1, steps + 1):
            self.step()
            if number % LOOK_EVERY == 0:
                self.agree()
        self.agree()
        if left := len(self.shown()["unplugging"]):
            self.counts["left open by QEMU"] = left


# --- past any agent -----------------------------------------------------------------------------------------------------------


async def by_monitor(home: Path, shown: dict[str, Any]) -> list[str]:
    """What the monitor itself says otherwise than the log; no agent is there. Keys and devices are QEMU's own."""
    (folder,) = [path for path in home.glob(f"**/vms/{VM}") if (path / "monitor").exists()]
    sock = socket.socket(socket.AF_UNIX)
    fd = os.open(folder, os.O_PATH)
    sock.connect(f"/proc/self/fd/{fd}/monitor")
    os.close(fd)
    qmp = Qmp(lambda event: None)
    await qmp.connect(sock)
    try:
        blocks = {device_of(str(b["qdev"])): b for b in await qmp.execute("query-block") if b.get("qdev")}
        devices = {str(d["name"]) for d in await qmp.execute("qom-list", {"path": "/machine/peripheral"})}
        cpus = len(await qmp.execute("query-cpus-fast"))
        memory = await qmp.execute("query-memory-size-summary")
        mib = (int(memory["base-memory"]) + int(memory["plugged-memory"])) >> 20
    finally:
        await qmp.close()
    out = []
    wanted = {f"disk{d['slot']}-dev" for d in shown["disks"]} | {f"nic{n['slot']}-dev" for n in shown["nics"]}
    there = {name for name in devices if name.endswith("-dev")}
    if there != wanted:
        out.append(f"QEMU has {sorted(there)}, {sorted(wanted)} are right")
    if cpus < shown["vcpus"] or mib != shown["memory_mib"]:
        out.append(f"QEMU has {cpus} vCPUs and {mib} MiB; {shown['vcpus']} and {shown['memory_mib']} are right")
    for disk in shown["disks"]:
        inserted = blocks.get(f"disk{disk['slot']}-dev", {}).get("inserted", {})
        limits = disk.get("limits") or {}
        seen = (inserted.get("iops"), inserted.get("bps"), inserted.get("image", {}).get("virtual-size"))
        right = (limits.get("iops", 0), limits.get("mibps", 0) << 20, disk["size_mib"] << 20)
        if seen != right:
            out.append(f"QEMU's {disk['name']} has (iops, bps, bytes) {seen}, {right} are right")
    return out


CREATE = (
    "vm", "create", VM, "--image", "tiny", "--vcpus", "1", "--memory", "128MiB", "--vcpus-max", "3", "--memory-max", "512MiB",
    "--wait",
)  # fmt: skip


def main() -> None:
    from tests.e2e.conftest import EmbeddedCluster, embedded

    options = argparse.ArgumentParser(prog="python -m tests.chaos.hardware")
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--steps", type=int, default=STEPS)
    asked = options.parse_args()
    with embedded() as cluster:
        assert isinstance(cluster, EmbeddedCluster)
        cluster.ctl(*CREATE)
        begun = time.monotonic()
        chaos = Chaos(cluster.home, asked.seed)
        try:
            chaos.run(asked.steps)
            shown = chaos.shown()
            cluster.cluster("down")
            different = asyncio.run(by_monitor(cluster.home, shown))
            assert not different, chaos.failed("; ".join(different))
        except AssertionError as error:
            print(error, file=sys.stderr)
            sys.exit(1)
        counts = ", ".join(f"{name} {number}" for name, number in sorted(chaos.counts.items()))
        print(f"{asked.steps} steps of seed {asked.seed} in {time.monotonic() - begun:.0f} s, all agree: {counts}")


if __name__ == "__main__":
    main()
