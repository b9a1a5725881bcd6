"""The areas of a node on this machine's own kernel: what goes mad in one dies there, and swap is for best-effort VMs alone."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from libs.memory.areas import AGENT, CONTROL_PLANE, GROUPED, NETWORK, STORAGE
from proto.machine import DiskFormat, Priority
from proto.memory import Area
from proto.node import AreaNow
from services.node.drivers import CannotStart
from services.node.drivers.qemu.qemu_img import QemuImg
from services.node.host import areas, cgroup_memory, swap
from services.node.host.areas import area_of
from services.node.host.cgroup import Groups
from services.node.host.cgroup_tree import Limits, bases
from services.node.host.identity import boot_id
from services.node.swapping import Swapping, Wish, own_device

CLASSES = tuple(area_of(priority) for priority in Priority)
MAX_MIB = 48
CAT = shutil.which("cat") or "cat"
EAT = "read _; head -c 400m /dev/zero | tail -c 400m >/dev/null"
"""holds 400 MiB at once"""
HOLD = """
import os, sys
sys.stdin.readline()
page = os.urandom(1024) + bytes(3072)
held = page * (48 << 8)
print("held", flush=True)
sys.stdin.readline()
"""
"""holds 48 MiB that compress to a quarter"""


@pytest.fixture
def groups() -> Iterator[Groups]:
    made = Groups(name=f"asv-areas-{os.getpid()}")
    if made.area("") is None:
        pytest.skip("this process may not make control groups for memory here")
    yield made
    for base in bases():
        for top in (*base.folder.glob(f"{made.name}-*"), base.folder / made.name):
            for below in (*top.glob("*/*"), *top.glob("*")):
                if below.is_dir():
                    with suppress(OSError):
                        below.rmdir()
            with suppress(OSError):
                top.rmdir()


@pytest.fixture
def control_plane(groups: Groups) -> Path:
    """As the embedded cluster's supervisor makes it."""
    whole = groups.area("")
    assert whole is not None
    group = whole.with_name(f"{groups.name}-control-plane")
    group.mkdir()
    return group


@pytest.fixture
def divided(groups: Groups, control_plane: Path) -> Groups:
    """Best-effort VMs may have more than others, so all together may too: a class is held by its own limit, not by theirs."""
    limits = [Area(name="host", min_mib=64), *(Area(name=name, max_mib=MAX_MIB) for name in (*GROUPED, *CLASSES[:-1]))]
    limits.append(Area(name=CLASSES[-1], max_mib=2 * MAX_MIB))
    assert areas.apply(groups, limits, control_plane) == []
    return groups


def stand(groups: Groups, control_plane: Path, area: str, pid: int) -> None:
    """A process into an area: a class's in a VM's own group, as QEMU stands."""
    if area in CLASSES:
        assert groups.join(f"vm-{pid}", pid, Limits(memory_mib_max=1024), area)
    elif area == CONTROL_PLANE:
        (control_plane / "cgroup.procs").write_text(str(pid))
    else:
        assert areas.join(groups, area, pid)


@contextmanager
def at_rest() -> Iterator[subprocess.Popen[bytes]]:
    """A process that says again what it is told; killed at the end, for a group with a process in it cannot be taken away."""
    with subprocess.Popen([CAT], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def seen(groups: Groups, control_plane: Path) -> dict[str, AreaNow]:
    return {area.name: area for area in areas.now(groups, control_plane)}


@pytest.mark.parametrize("area", [CONTROL_PLANE, AGENT, STORAGE, NETWORK, area_of(Priority.CRITICAL), area_of(Priority.NORMAL)])
def test_what_goes_mad_in_one_area_dies_alone(divided: Groups, control_plane: Path, area: str) -> None:
    others = [name for name in (*GROUPED, *CLASSES) if name != area]
    with ExitStack() as ended, subprocess.Popen(["/bin/sh", "-c", EAT], stdin=subprocess.PIPE) as mad:
        calm = {name: ended.enter_context(at_rest()) for name in others}
        for name, process in calm.items():
            stand(divided, control_plane, name, process.pid)
        stand(divided, control_plane, area, mad.pid)
        mad.communicate(b"\n", timeout=60)
        assert mad.returncode != 0, "it held 400 MiB in an area of 48"
        now = seen(divided, control_plane)
        assert now[area].hits > 0 and now[area].max_mib == MAX_MIB
        assert now[area].peak_mib <= MAX_MIB
        assert [name for name in others if now[name].kills or now[name].hits] == []
        if area not in CLASSES:
            assert now[area].kills >= 1
        for name, process in calm.items():
            out, _ = process.communicate(b"alive", timeout=30)
            assert (out, process.returncode) == (b"alive", 0), f"{name} went with {area}"


def test_an_area_that_is_full_says_so_and_takes_no_less(divided: Groups, control_plane: Path) -> None:
    """A limit below what is in use is refused by the kernel (v1) or kills (v2): the first is told, the old one stands."""
    with subprocess.Popen([sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin and process.stdout
        areas.apply(divided, [Area(name="host", min_mib=1), Area(name=STORAGE, max_mib=128)], control_plane)
        stand(divided, control_plane, STORAGE, process.pid)
        process.stdin.write(b"\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"held\n"
        if cgroup_memory.version_of(control_plane) == 1:
            faults = areas.apply(divided, [Area(name="host", min_mib=1), Area(name=STORAGE, max_mib=16)], control_plane)
            assert len(faults) == 1 and faults[0].startswith("area storage: memory.limit_in_bytes does not take 16 MiB")
            assert seen(divided, control_plane)[STORAGE].max_mib == 128
        process.kill()


@pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is not installed")
def test_what_makes_disks_stands_in_the_area_of_storage(divided: Groups, control_plane: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    tool = QemuImg(stand=lambda pid: areas.join(divided, STORAGE, pid))
    before = seen(divided, control_plane)[STORAGE].peak_mib
    tool.blank(tmp_path / "a.qcow2", DiskFormat.QCOW2, 64)
    assert seen(divided, control_plane)[STORAGE].peak_mib > before, "its memory was charged there"
    small = [Area(name="host", min_mib=1), Area(name=STORAGE, max_mib=1)]
    areas.apply(divided, small, control_plane)
    if seen(divided, control_plane)[STORAGE].max_mib == 1:
        with pytest.raises(CannotStart, match="signal 9"):
            tool.blank(tmp_path / "b.qcow2", DiskFormat.QCOW2, 64)
        assert not list(tmp_path.glob("*b.qcow2*")), "nothing half-made is left"


def test_only_best_effort_vms_are_swapped(divided: Groups, tmp_path: Path) -> None:
    """Two processes hold 48 MiB each in VMs' groups of 32: one may be swapped, as was ordered for it; the other is critical."""
    if swap.swaps():
        pytest.skip("this machine has swap of its own")
    state = Swapping(tmp_path, boot_id())
    if said := state.prepare(Wish(kind="zram", memory_mib=4096, swap_mib=96, where=tmp_path)):
        assert "zram: " in said[0] and not list(tmp_path.iterdir())
        pytest.skip(said[0])
    try:
        (now,) = swap.swaps(own=own_device(tmp_path))
        assert (now.kind, now.size_mib, now.memory_max_mib, now.own, now.why_not) == ("zram", 95, 32, True, "")
        assert swap.for_vms((now,)) == (95, 32)
        assert _holds(divided, Priority.BEST_EFFORT, swap_mib=64) == 0
        assert _holds(divided, Priority.CRITICAL, swap_mib=0) == -signal.SIGKILL
    finally:
        assert state.leave() == ""
    assert swap.swaps() == () and not list(tmp_path.iterdir())
    assert not Path("/sys/block", Path(now.name).name).exists()


def _holds(groups: Groups, priority: Priority, swap_mib: int) -> int:
    """How a process ends that holds 48 MiB where it may have 32, and so much swap."""
    with subprocess.Popen([sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin and process.stdout
        handle = groups.join(f"{priority}", process.pid, Limits(memory_mib_max=32), area_of(priority))
        assert cgroup_memory.set_vm(handle, 0, swap_mib) == []
        with suppress(BrokenPipeError):
            process.stdin.write(b"\n")
            process.stdin.flush()
            if process.stdout.readline():
                assert swap.swaps()[0].used_mib >= 10, "it lies in zram"
                process.stdin.write(b"\n")
    return process.returncode


def test_swap_on_a_disk_is_encrypted_or_refused(tmp_path: Path) -> None:
    if swap.swaps():
        pytest.skip("this machine has swap of its own")
    state = Swapping(tmp_path, boot_id())
    said = state.prepare(Wish(kind="disk", memory_mib=4096, swap_mib=16, where=tmp_path))
    if said:
        assert said[0].startswith("swap for VMs (disk: ") and "best-effort VMs are not swapped out here" in said[0]
    else:
        (now,) = swap.swaps(own=own_device(tmp_path))
        assert (now.kind, now.own, now.why_not) == ("crypt", True, "")
    assert state.leave() == "" and not list(tmp_path.iterdir()) and swap.swaps() == ()


def test_leaving_a_host_from_the_command_line(tmp_path: Path) -> None:
    """What lay in memory went with an earlier boot; the file did not."""
    file, kept = tmp_path / "swap", tmp_path / "swap.json"
    file.write_bytes(bytes(4096))
    kept.write_text(f'{{"kind":"disk","boot_id":"earlier","size":{{"swap_mib":16}},"file":"{file}","device":"/dev/mapper/x"}}')
    settings = {"ASV_NODE": "n1", "ASV_STATE": str(tmp_path), "ASV_POOLS": f"default={tmp_path}"}

    def leave(**more: str) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-m", "services.node", "leave"]
        plain = {k: v for k, v in os.environ.items() if not k.startswith("ASV_")}
        return subprocess.run(words, env=plain | settings | more, capture_output=True, text=True, timeout=60, check=False)

    done = leave()
    assert (done.returncode, done.stderr) == (0, "") and not list(tmp_path.iterdir())
    assert leave().returncode == 0, "said twice it changes nothing"
    wrong = leave(ASV_SWAP="lots")
    assert wrong.returncode == 2 and "none of zram, disk, auto" in wrong.stderr
    kept.write_text("{")
    damaged = leave()
    assert damaged.returncode == 1 and "is damaged" in damaged.stderr
