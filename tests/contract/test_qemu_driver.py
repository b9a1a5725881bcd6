"""What only real processes can show: privileges, isolation, adoption across agents' deaths, a guest that panics or lies."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest

from proto.machine import MachineSpec, Nic, NicKind
from services.node.drivers import CannotStart, GuestSilent, LeaseRefused
from services.node.drivers.qemu import lease
from services.node.drivers.qemu.driver import QemuDriver
from services.node.drivers.qemu.folder import Folder, Record
from services.node.drivers.qemu.process import UID_BASE, host_boot_id, start_ticks
from tests.contract.driver_rigs import QemuRig, guest_up, told
from tests.guests import tiny_image

pytestmark = pytest.mark.skipif(
    shutil.which("qemu-system-x86_64") is None, reason="qemu-system-x86_64 is not installed"
)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[QemuRig]:
    made = QemuRig(tmp_path, tiny_image())
    yield made
    made.end()


@pytest.fixture
async def driver(rig: QemuRig) -> AsyncIterator[QemuDriver]:
    made = rig.driver()
    await made.open()
    yield made
    await made.close()


async def test_a_guest_reaches_neither_the_host_nor_the_world(rig: QemuRig, driver: QemuDriver) -> None:
    """10.0.2.2 is the host's loopback to a guest of a user-mode network; a service of ours listens there."""
    heard: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(b"connected")
        writer.write(b"secret of the host\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    await rig.settled(driver, rig.spec())
    async with asyncio.timeout(20):
        while not (await driver.info("web-1")).addresses:
            pass  # each question takes its time in the guest; DHCP works, and is all that does
    for target in ("10.0.2.2", "10.0.2.3", "127.0.0.1"):
        script = f"echo hello | nc -w 2 {target} {port} 2>&1; echo over"
        result = await driver.exec("web-1", ("/bin/sh", "-c", script), b"", 15.0)
        assert b"over" in result.stdout
        assert b"secret" not in result.stdout
    assert heard == []
    # The same service, asked by the host itself, answers: it was there all the time.
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    assert await reader.readline() == b"secret of the host\n"
    writer.close()
    server.close()


async def test_a_panic_is_told_and_a_reset_heals_it(rig: QemuRig, driver: QemuDriver) -> None:
    changes = driver.changes()
    await rig.settled(driver, rig.spec())
    first = (await driver.info("web-1")).boot_id
    crash = asyncio.create_task(driver.exec("web-1", ("/bin/sh", "-c", "echo c > /proc/sysrq-trigger"), b"", 5.0))
    change = await told(changes, "panicked")
    assert (change.generation, change.sentence) == (1, "the guest panicked")
    assert [m.status for m in await driver.open()] == ["panicked"]
    with pytest.raises(GuestSilent):
        await crash
    await driver.reset("web-1")
    assert [(m.status, m.resets) for m in await driver.open()] == [("running", 1)]
    await guest_up(driver)
    assert (await driver.info("web-1")).boot_id not in ("", first)


async def test_after_a_silence_answers_are_not_mixed_up(rig: QemuRig, driver: QemuDriver) -> None:
    await rig.settled(driver, rig.spec())
    await driver.pause("web-1")
    with pytest.raises(GuestSilent, match="within"):
        await driver.exec("web-1", ("echo", "late"), b"", 0.3)
    assert not (await driver.info("web-1")).guest_agent
    await driver.resume("web-1")
    assert (await driver.exec("web-1", ("echo", "new"), b"", 10.0)).stdout == b"new\n"
    long = await driver.exec("web-1", ("/bin/sh", "-c", "head -c 1500000 /dev/zero"), b"", 20.0)
    assert (long.truncated, len(long.stdout)) == (True, 1024 * 1024)
    huge = await driver.exec("web-1", ("/bin/sh", "-c", "head -c 6000000 /dev/zero"), b"", 30.0)
    assert huge.truncated
    assert "file in the guest" in huge.error
    assert (await driver.exec("web-1", ("echo", "still here"), b"", 10.0)).stdout == b"still here\n"
    slow = await driver.exec("web-1", ("sleep", "60"), b"", 0.5)
    assert "still running" in slow.error


def members(group: str) -> list[int]:
    return [int(pid) for pid in (Path(group) / "cgroup.procs").read_text(encoding="ascii").split()]


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a process another user")
async def test_qemu_has_no_privileges(rig: QemuRig, driver: QemuDriver) -> None:
    machine = await driver.start(rig.spec())
    other = await driver.start(msgspec.structs.replace(rig.spec("web-2"), disks=(), nics=()))
    seen = []
    for pid in (machine.pid, other.pid):
        status = status_of(pid)
        uids = {int(word) for word in f"{status['Uid']} {status['Gid']}".split()}
        assert len(uids) == 1
        assert min(uids) >= UID_BASE
        assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0
        assert (status["NoNewPrivs"], status["Seccomp"], status["Groups"]) == ("1", "2", "")
        seen.append(uids.pop())
    assert seen[0] != seen[1]
    record = Folder(rig.top / "n1", "web-1").load()
    assert record is not None
    for group in record.cgroup.splitlines():  # none where none can be made; the capabilities say so
        assert members(group) == [machine.pid]
    await driver.kill("web-1")
    assert not [group for group in record.cgroup.splitlines() if Path(group).exists()]
    disk = rig.pool / "disks" / rig.spec().disks[0].file
    assert (disk.stat().st_uid, disk.stat().st_mode & 0o777) == (seen[0], 0o600)
    assert (rig.pool / "images" / "tiny" / "disk.qcow2").stat().st_uid == 0


AGENT = """
import asyncio, sys
import msgspec
from pathlib import Path
from proto.machine import MachineSpec, Nic, NicKind
from services.node.drivers.qemu.driver import QemuDriver

async def main():
    state, pool, spec = Path(sys.argv[1]), Path(sys.argv[2]), msgspec.json.decode(sys.argv[3], type=MachineSpec)
    driver = QemuDriver("n1", state, {"default": pool}, cache=state.parent.parent / "probes")
    await driver.open()
    print((await driver.start(spec)).pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


async def killed_agent(rig: QemuRig, spec: MachineSpec) -> int:
    """An agent of its own process starts the VM and is killed. Returns QEMU's process id."""
    words = [sys.executable, "-c", AGENT, str(rig.top / "n1"), str(rig.pool), msgspec.json.encode(spec).decode()]
    agent = await asyncio.create_subprocess_exec(*words, stdout=subprocess.PIPE)
    assert agent.stdout is not None
    pid = int(await agent.stdout.readline())
    agent.kill()
    await agent.wait()
    return pid


async def test_an_agent_killed_by_signal_leaves_its_vms_to_the_next(rig: QemuRig, driver: QemuDriver) -> None:
    pid = await killed_agent(rig, rig.spec(generation=3))
    changes = driver.changes()
    assert [(m.vm, m.generation, m.pid, m.status) for m in await driver.open()] == [("web-1", 3, pid, "running")]
    await guest_up(driver)
    assert (await driver.exec("web-1", ("uname", "-r"), b"", 10.0)).stdout == rig.kernel
    os.kill(pid, signal.SIGKILL)
    assert (await told(changes, "gone")).generation == 3
    assert rig.left_over("n1") == []


async def test_a_process_that_only_has_the_number_is_not_adopted(rig: QemuRig, driver: QemuDriver) -> None:
    """Process ids are used again: this one is ours, with another start time than the record says."""
    bystander = await asyncio.create_subprocess_exec("sleep", "60")
    ticks = start_ticks(bystander.pid)
    assert ticks is not None
    folder = Folder(rig.top / "n1", "web-1")
    folder.make(None)
    folder.save(Record(vm="web-1", generation=1, pid=bystander.pid, start_ticks=ticks + 1, boot_id=host_boot_id()))
    changes = driver.changes()
    assert await driver.open() == []
    assert "no agent was there" in (await told(changes, "gone")).sentence
    await driver.kill("web-1")
    assert bystander.returncode is None
    bystander.kill()
    await bystander.wait()


async def test_a_cancelled_start_leaves_nothing(rig: QemuRig, driver: QemuDriver) -> None:
    starting = asyncio.create_task(driver.start(rig.spec()))
    async with asyncio.timeout(10):
        while not rig.processes("n1"):
            await asyncio.sleep(0)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert rig.left_over("n1") == []
    assert (await driver.start(rig.spec())).status == "running"


async def test_refusals_name_the_cause(rig: QemuRig, driver: QemuDriver) -> None:
    spec = rig.spec()
    lost = msgspec.structs.replace(spec, disks=(msgspec.structs.replace(spec.disks[0], image="nowhere"),))
    for bad, says in (
        (lost, "'nowhere' is not in the pool"),
        (msgspec.structs.replace(spec, boot_image="nowhere"), "import it first"),
        (
            msgspec.structs.replace(spec, shape=msgspec.structs.replace(spec.shape, machine="pc-q35-99.0")),
            "unsupported machine",
        ),
        (msgspec.structs.replace(spec, shape=msgspec.structs.replace(spec.shape, vcpus_max=1, vcpus=2)), "vcpus_max"),
        (msgspec.structs.replace(spec, disks=(msgspec.structs.replace(spec.disks[0], pool="slow"),)), "'slow'"),
    ):
        with pytest.raises(CannotStart, match=says):
            await driver.start(bad)
        assert rig.left_over("n1") == []


def test_a_lease_record_that_makes_no_sense_stops_everyone(tmp_path: Path) -> None:
    mine = lease.Lease("web-1", 2, "n1", "boot")
    lease.take(tmp_path, mine)
    lease.take(tmp_path, mine)
    assert lease.read(tmp_path, "web-1") == mine
    for late in (lease.Lease("web-1", 1, "n1", "boot"), lease.Lease("web-1", 2, "n2", "boot")):
        with pytest.raises(LeaseRefused):
            lease.take(tmp_path, late)
    assert lease.read(tmp_path, "web-1") == mine
    (tmp_path / "leases" / "web-1.lease").write_text("{")
    with pytest.raises(LeaseRefused, match="remove the file"):
        lease.take(tmp_path, lease.Lease("web-1", 9, "n1", "boot"))


async def test_a_frozen_process_is_adopted_as_paused_and_killed_all_the_same(rig: QemuRig, driver: QemuDriver) -> None:
    machine = await driver.start(rig.spec())
    await driver.close()
    os.kill(machine.pid, signal.SIGSTOP)
    second = rig.driver()
    assert [(m.pid, m.status) for m in await second.open()] == [(machine.pid, "paused")]
    os.kill(machine.pid, signal.SIGCONT)
    await second.resume("web-1")
    assert [m.status for m in await second.open()] == ["running"]
    os.kill(machine.pid, signal.SIGSTOP)
    await second.kill("web-1")
    assert rig.left_over("n1") == []
    await second.close()


async def test_a_process_killed_at_birth_leaves_nothing(rig: QemuRig, driver: QemuDriver) -> None:
    starting = asyncio.create_task(driver.start(rig.spec()))
    async with asyncio.timeout(10):
        while not rig.processes("n1"):
            await asyncio.sleep(0)
    for pid in rig.processes("n1"):
        os.kill(pid, signal.SIGKILL)
    with pytest.raises(CannotStart, match=r"did not start|could not be started"):
        await starting
    assert rig.left_over("n1") == []
    assert (await driver.start(rig.spec())).status == "running"


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("ip") is None, reason="root and iproute2 are needed to make a bridge"
)
async def test_a_nic_in_a_bridge_lives_as_long_as_its_process(rig: QemuRig) -> None:
    bridge = f"asvt{os.getpid() % 100_000}"
    if (
        subprocess.run(["ip", "link", "add", bridge, "type", "bridge"], check=False, capture_output=True).returncode
        != 0
    ):
        pytest.skip("this machine makes no bridges")
    members = Path(f"/sys/class/net/{bridge}/brif")
    wan = Nic(name="wan", kind=NicKind.BRIDGE, mac="52:54:00:aa:bb:02", slot=9, bridge=bridge, network="lan", trusted=True)
    spec = msgspec.structs.replace(rig.spec(), nics=(wan,))
    closed, opened = rig.driver(bridges=("other",)), rig.driver("n2", bridges=(bridge,))
    try:
        for driver in (closed, opened):
            await driver.open()
        with pytest.raises(CannotStart, match="allowed here: other"):
            await closed.start(spec)
        assert [b.name for b in (await opened.capabilities()).bridges] == [bridge]
        await opened.start(msgspec.structs.replace(spec, generation=2))
        assert [name[:3] for name in sorted(p.name for p in Path(members).iterdir())] == ["asv"]
        await opened.kill("web-1")
        assert not list(Path(members).iterdir())
    finally:
        for driver in (closed, opened):
            await driver.close()
        rig.end()
        subprocess.run(["ip", "link", "delete", bridge], check=True)


async def test_what_the_host_knows_does_not_wait_for_a_booting_guest(rig: QemuRig, driver: QemuDriver) -> None:
    await driver.start(rig.spec())
    info = await asyncio.wait_for(driver.info("web-1", 0.05), 0.9)
    assert info.pcpus and info.vcpu_threads and not info.guest_agent and not info.addresses
