"""The tiny guest, built from this machine's packages and started by a real QEMU."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from qemu.qmp import EventListener

from infra.guest import cpio, elf, modules
from infra.guest.build import Manifest, build, default_cache, main, read_manifest
from infra.guest.packages import GuestError
from services.node.host import accel
from services.node.host.accel import Accelerator
from services.node.host.qemu import QemuUnusable
from tests.contract.guest_machine import ANSWER_S_MAX, READY_S_MAX, Running, running

NEEDED = ("apt-get", "dpkg-deb", "qemu-img", "qemu-system-x86_64", "setpriv")
MISSING = [name for name in NEEDED if shutil.which(name) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built, or taken from the cache of built ones; into a path with a blank in it."""
    dest = tmp_path_factory.mktemp("a guest") / "tiny"
    build(dest, default_cache())
    return dest


@pytest.fixture(scope="module")
def manifest(image: Path) -> Manifest:
    found = read_manifest(image)
    assert found is not None
    return found


@pytest.fixture
async def accelerator(tmp_path: Path) -> Accelerator:
    return await accel.probe("qemu-system-x86_64", tmp_path / "accel")


def test_the_manifest_describes_the_files(image: Path, manifest: Manifest) -> None:
    assert {p.name for p in image.iterdir()} == {*manifest.files, "manifest.json"}
    for name, facts in manifest.files.items():
        assert hashlib.sha256((image / name).read_bytes()).hexdigest() == facts.sha256
    assert manifest.sha256 == manifest.files["disk.qcow2"].sha256
    assert elf.has_pvh_entry((image / manifest.boot.kernel).read_bytes())


def test_a_second_build_leaves_the_image_alone(image: Path, tmp_path: Path) -> None:
    before = (image / "vmlinux").stat()
    build(image, tmp_path / "empty cache")
    after = (image / "vmlinux").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_a_damaged_image_is_replaced_whole(image: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "tiny"
    shutil.copytree(image, damaged)
    (damaged / "initrd").write_bytes(b"")
    build(damaged, default_cache())
    assert read_manifest(damaged) == read_manifest(image)
    assert [p.name for p in tmp_path.iterdir()] == ["tiny"]


def test_without_packages_a_sentence_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A machine whose sources are empty, and which has no lists."""
    config = tmp_path / "apt.conf"
    empty = {"Dir::State::Lists": "lists", "Dir::Etc::SourceList": "none", "Dir::Etc::SourceParts": "parts"}
    config.write_text("".join(f'{key} "{tmp_path / name}";\n' for key, name in empty.items()))
    monkeypatch.setenv("APT_CONFIG", str(config))
    with pytest.raises(GuestError, match="does not offer busybox-static"):
        build(tmp_path / "tiny", tmp_path / "cache")
    assert main([str(tmp_path / "tiny"), "--cache", str(tmp_path / "cache")]) == 1
    assert "check the machine's apt sources" in capsys.readouterr().err
    assert not (tmp_path / "tiny").exists()


def test_an_archive_has_the_same_bytes_each_time() -> None:
    entries = {"b/c": cpio.file(b"x", executable=True), "a": cpio.link("elsewhere")}
    archive = cpio.archive(entries)
    assert archive == cpio.archive(dict(reversed(entries.items())))
    places = [archive.index(name) for name in (b"a\0", b"elsewhere", b"b\0", b"b/c\0", b"TRAILER!!!")]
    assert places == sorted(places)
    assert len(archive) % 512 == 0


def test_a_module_loses_its_signature_and_nothing_else(image: Path) -> None:
    signed = b"a module" + b"s" * 300 + bytes(8) + (300).to_bytes(4, "big") + b"~Module signature appended~\n"
    assert modules.unsigned(signed) == modules.unsigned(b"a module") == b"a module"
    assert b"~Module signature appended~" not in (image / "initrd").read_bytes()


async def gone(machine: Running) -> int:
    async with asyncio.timeout(READY_S_MAX):
        return await machine.process.wait()


async def heard(name: str, listener: EventListener) -> Any:
    async with asyncio.timeout(ANSWER_S_MAX):
        async for event in listener:
            if event["event"] == name:
                return event["data"]
    raise AssertionError(f"QEMU ended without {name}")


async def settles(machine: Running, wanted: str, *argv: str) -> None:
    """A program in the guest comes to say what is wanted; asked again as fast as the guest answers."""
    async with asyncio.timeout(ANSWER_S_MAX):
        while (await machine.agent.run(*argv)).strip() != wanted:
            continue


async def plug_cpu(machine: Running) -> None:
    places: Any = await machine.qmp.execute("query-hotpluggable-cpus")
    free = [place for place in places if "qom-path" not in place]
    await machine.qmp.execute("device_add", {"driver": free[0]["type"], "id": "cpu1", **free[0]["props"]})
    await settles(machine, "2", "/bin/nproc")


async def plug_memory(machine: Running) -> None:
    await machine.qmp.execute("object-add", {"qom-type": "memory-backend-ram", "id": "m1", "size": 256 << 20})
    await machine.qmp.execute("device_add", {"driver": "pc-dimm", "id": "d1", "memdev": "m1"})
    await settles(
        machine, "2", "/bin/sh", "-c", "cat /sys/devices/system/memory/*/valid_zones | grep -c Movable || true"
    )


async def test_it_boots_answers_grows_and_shuts_down(
    image: Path, manifest: Manifest, accelerator: Accelerator, tmp_path: Path
) -> None:
    async with running(image, manifest, accelerator, tmp_path) as machine:
        line = await machine.console.until(b"tiny: ready uptime=")
        print(f"{accelerator.name}: ready after {time.monotonic() - machine.began:.2f} s: {line}")
        await machine.agent.sync()
        print(f"{accelerator.name}: the agent answers after {time.monotonic() - machine.began:.2f} s")
        assert (await machine.agent.run("/bin/uname", "-r")).strip() == manifest.kernel
        boot_id = (await machine.agent.run("/bin/cat", "/proc/sys/kernel/random/boot_id")).strip()
        assert f"boot_id={boot_id}" in line
        machine.console.write(b"echo console-$((6 * 7))\n")
        await machine.console.until(b"console-42")
        await plug_cpu(machine)
        await plug_memory(machine)
        address = "ip -4 addr show dev eth0 | grep -c 10.0.2.15"
        await settles(machine, "1", "/bin/sh", "-c", f"{address} || true")
        await settles(machine, "ext4", "/bin/sh", "-c", "awk '$2 == \"/data\" {print $3}' /proc/mounts")
        await machine.agent.run("/bin/test", "-c", "/dev/watchdog0", "-a", "-c", "/dev/hwrng")
        await machine.agent.say("guest-shutdown")
        assert await gone(machine) == 0


async def test_the_power_button_and_what_was_written(
    image: Path, manifest: Manifest, accelerator: Accelerator, tmp_path: Path
) -> None:
    """Two boots of one disk: the first ends by the button, the second finds what the first has written, and panics."""
    async with running(image, manifest, accelerator, tmp_path) as machine:
        await machine.agent.sync()
        await settles(machine, "acpid", "/bin/sh", "-c", "pidof acpid >/dev/null && echo acpid || true")
        await machine.agent.run("/bin/sh", "-c", "echo kept > /data/note")
        await machine.qmp.execute("system_powerdown")
        assert await gone(machine) == 0
    async with running(image, manifest, accelerator, tmp_path) as machine:
        await machine.agent.sync()
        await settles(machine, "kept", "/bin/sh", "-c", "cat /data/note || true")
        with machine.qmp.listener("GUEST_PANICKED") as listener:
            await machine.agent.say("guest-exec", path="/bin/sh", arg=["-c", "echo c > /proc/sysrq-trigger"])
            assert (await heard("GUEST_PANICKED", listener))["action"] in ("poweroff", "pause")


async def test_the_accelerator_is_the_one_that_runs_code(accelerator: Accelerator, tmp_path: Path) -> None:
    assert accelerator.name in ("kvm", "tcg")
    began = time.monotonic()
    assert await accel.probe("qemu-system-x86_64", tmp_path / "accel") == accelerator
    # a verdict that is known is not found again: that takes longer where KVM hangs
    assert time.monotonic() - began < accel.RUN_S_MAX
    assert accelerator.name == "kvm" or "KVM is not usable" in accelerator.reason


async def test_a_qemu_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(QemuUnusable, match="install qemu-system-x86"):
        await accel.probe(str(tmp_path / "no-qemu"), tmp_path)
    with pytest.raises(QemuUnusable, match="not QEMU"):
        await accel.probe("/bin/true", tmp_path)
