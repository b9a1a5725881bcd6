"""Backups that are encrypted, by a real QEMU: nothing of what was on the disks is in their files; all else is as with any
backup."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from libs.common import backup_key
from libs.common.backup_key import BackupKey
from proto.backups import BackupDone, BackupKind
from proto.hardware import Hardware
from proto.machine import MachineSpec, birth
from services.node.drivers import CannotStart, Driver, NotBackedUp
from services.node.drivers.qemu.backups import cipher
from services.node.drivers.qemu.backups.layout import Shelf
from services.node.drivers.qemu.driver import QemuDriver
from services.node.drivers.qemu.layers import backing_of
from tests.contract.backup_rig import Saved
from tests.contract.driver_rigs import QemuRig, guest_up
from tests.contract.recovery_rig import home
from tests.contract.test_backups_qemu import rig as rig
from tests.contract.test_backups_qemu import saved as saved

KEY, OTHER = backup_key.make("main"), backup_key.make("main")
PATTERN = b"what nobody else may read"
OPENED_CPU_S_MAX = 2.0
"""for a chain of 8: with keys that were stretched as LUKS does by itself it would be some 18 s"""


@pytest.fixture(autouse=True)
def fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file that is made beforehand takes QEMU 2 s of a CPU."""
    monkeypatch.setattr(cipher, "BLANKS_MAX", 1)


async def given(driver: Driver, key: BackupKey = KEY) -> None:
    can = await driver.capabilities()
    assert await driver.take_key(backup_key.seal(key, "n1", can.move_key)) == key.id
    assert key.id in (await driver.capabilities()).backup_keys


async def pattern(saved: Saved, at_mib: int, mib: int = 1) -> None:
    """All over so many MiB of its second disk, from there on."""
    put = f"dd of=/dev/vdb bs=1M seek={at_mib} conv=fsync iflag=fullblock 2>/dev/null"
    await saved.vm.sh(f"yes '{PATTERN.decode()}' | head -c {mib << 20} | {put}")


def digest_of(disk: str, at_mib: int) -> str:
    return f"dd if={disk} bs=1M skip={at_mib} count=1 2>/dev/null | md5sum"


async def take(saved: Saved, parent: str = "", **more: Any) -> BackupDone:
    """Of its second disk only."""
    order = saved.order(parent, **more)
    return await saved.taken(replace(order, disks=order.disks[1:]))


async def at_home(driver: Driver, spec: MachineSpec) -> Hardware:
    return await home(driver, replace(spec, born=birth(spec)))


async def objects(driver: Driver) -> list[str]:
    assert isinstance(driver, QemuDriver)
    found = await driver._fleet.vms["web-1"].do("qom-list", {"path": "/objects"})
    return [one["name"] for one in found if "key" in one["name"]]


def header(file: Path) -> dict[str, Any]:
    out = subprocess.run(["qemu-img", "info", "-U", "--output=json", str(file)], capture_output=True, check=True).stdout
    found: dict[str, Any] = json.loads(out)["format-specific"]["data"]
    return found


def opens(file: Path) -> dict[str, Any]:
    return {"driver": "qcow2", "file": {"driver": "file", "filename": str(file)}}


def node_of(saved: Saved, disk: str, *chain: str) -> dict[str, Any] | None:
    """Of a disk in the first, opened by the key."""
    if not chain:
        return None
    node = opens(saved.qcow2(chain[0], disk))
    return node | {"encrypt": {"format": "luks", "key-secret": "key"}, "backing": node_of(saved, disk, *chain[1:])}


def bytes_of(node: dict[str, Any] | None) -> str:
    """A digest of all that a guest sees of it."""
    with tempfile.NamedTemporaryFile() as raw:
        secret = ("--object", f"secret,id=key,data={KEY.secret}")
        subprocess.run(["qemu-img", "convert", *secret, "-O", "raw", f"json:{json.dumps(node)}", raw.name], check=True)
        return hashlib.file_digest(raw, "sha256").hexdigest()


async def test_a_running_vm_is_backed_up_recovered_and_merged_encrypted(saved: Saved) -> None:
    """Full, incremental, verified, run from, merged: of what was on the disk no file has a byte that could be read."""
    vm, rig = saved.vm, saved.vm.rig
    assert isinstance(rig, QemuRig)
    await given(vm.driver)
    await pattern(saved, 8, 6)
    plain = await saved.take()
    assert PATTERN in saved.qcow2("b1-1").read_bytes(), "else what follows would say nothing"
    first = await saved.take("b1-1", key=KEY.id)
    assert first.kind is BackupKind.FULL and "b1-1 is encrypted by none" in first.sentence and first.key == KEY.id
    await pattern(saved, 16)
    second = await saved.take("b1-2", key=KEY.id)
    assert second.kind is BackupKind.INCREMENTAL and second.parent == "b1-2", second.sentence
    assert second.copied_mib < plain.copied_mib
    for backup in ("b1-2", "b1-3"):
        for file in (*saved.folder(backup).iterdir(), *saved.qcow2(backup).parent.iterdir()):
            assert PATTERN not in file.read_bytes() and KEY.secret.encode() not in file.read_bytes(), file
        encrypt = header(saved.qcow2(backup))["encrypt"]
        assert (encrypt["format"], encrypt["cipher-alg"], encrypt["cipher-mode"]) == ("luks", "aes-256", "xts")
        manifest = Shelf(rig.backups.parent, "web-1").manifest(backup)
        assert manifest is not None and manifest.key == KEY.id
    masters = {header(saved.qcow2(b, d))["encrypt"]["uuid"] for b in ("b1-2", "b1-3") for d in ("root", "data")}
    assert len(masters) == 4, "each file has a key of its own"
    assert await saved.left() == [] and await objects(vm.driver) == []
    was = [await vm.sh(digest_of("/dev/vdb", at)) for at in (8, 16)]
    await vm.driver.kill("web-1")
    await saved.take("b1-3", rests=True, key=KEY.id)
    held = {disk.name: bytes_of(opens(rig.pool / "disks" / disk.file)) for disk in vm.spec.disks}
    assert all(bytes_of(node_of(saved, name, "b1-4", "b1-3", "b1-2")) == digest for name, digest in held.items())
    await vm.driver.drop_key(KEY.id)
    assert await saved.damaged("b1-3") == {}, "whether a file is what was written is seen without its key"
    removal = replace(saved.removal("b1-2"), key=KEY.id)
    with pytest.raises(NotBackedUp, match=f"the key {KEY.id}, which n1 does not have"):
        await vm.driver.remove_backup(removal)
    spec = saved.recovered("b1-3", "b1-2", key=KEY.id)
    with pytest.raises(CannotStart, match=f"the key {KEY.id}, which n1 does not have"):
        await vm.driver.start(spec)
    assert not (rig.pool / "disks" / "web-1-data.r1.qcow2").exists(), "nothing was made"
    await given(vm.driver)
    await vm.driver.start(spec)
    await guest_up(vm.driver)
    command = Path(f"/proc/{(await vm.driver.info('web-1')).pid}/cmdline").read_bytes()
    assert KEY.id.encode() in command and KEY.secret.encode() not in command
    assert [await vm.sh(digest_of("/dev/vdb", at)) for at in (8, 16)] == was
    await at_home(vm.driver, spec)
    own = rig.pool / "disks" / "web-1-data.r1.qcow2"
    assert backing_of(own) == "" and await objects(vm.driver) == []
    assert PATTERN in own.read_bytes(), "at home it is as any disk of its pool"
    await vm.driver.kill("web-1")
    saved.removed(removal, await vm.driver.remove_backup(removal))
    assert PATTERN not in saved.qcow2("b1-3").read_bytes() and backing_of(saved.qcow2("b1-3")) == ""
    assert await saved.damaged("b1-4") == {}
    assert all(bytes_of(node_of(saved, name, "b1-4", "b1-3")) == digest for name, digest in held.items())
    again = saved.recovered("b1-3", key=KEY.id)
    again = replace(again, generation=9, disks=(again.disks[0], replace(again.disks[1], file="web-1-data.r2.qcow2")))
    await vm.driver.start(again)
    await guest_up(vm.driver)
    assert [await vm.sh(digest_of("/dev/vdb", at)) for at in (8, 16)] == was


async def test_a_key_that_is_not_its_own_opens_nothing(saved: Saved) -> None:
    """A VM at rest is backed up as well; a file by another key is refused, whatever the order says of it."""
    driver = saved.vm.driver
    await given(driver)
    await given(driver, OTHER)
    await pattern(saved, 8)
    await take(saved, key=KEY.id)
    await driver.kill("web-1")
    rests = await take(saved, "b1-1", rests=True, key=KEY.id)
    assert rests.kind is BackupKind.INCREMENTAL and PATTERN not in saved.qcow2("b1-2").read_bytes()
    with pytest.raises(CannotStart, match="Invalid password"):
        await driver.start(saved.recovered("b1-2", "b1-1", key=OTHER.id))
    before = [saved.qcow2(name).read_bytes() for name in ("b1-1", "b1-2")]
    with pytest.raises(NotBackedUp, match=f"is not encrypted by the key {OTHER.id}: nothing was removed"):
        await driver.remove_backup(replace(saved.removal("b1-1"), key=OTHER.id))
    assert [saved.qcow2(name).read_bytes() for name in ("b1-1", "b1-2")] == before and saved.names() == ["b1-1", "b1-2"]


async def test_a_chain_of_eight_is_opened_at_once(saved: Saved) -> None:
    await given(saved.vm.driver)
    for number in range(1, 9):
        await pattern(saved, 4 * number)
        done = await take(saved, f"b1-{number - 1}" if number > 1 else "", key=KEY.id)
        assert done.kind is (BackupKind.INCREMENTAL if number > 1 else BackupKind.FULL), done.sentence
    was = [await saved.vm.sh(digest_of("/dev/vdb", 4 * number)) for number in range(1, 9)]
    await saved.vm.driver.kill("web-1")
    spec = saved.recovered(*(f"b1-{number}" for number in range(8, 0, -1)), key=KEY.id)
    begun = time.monotonic()
    await saved.vm.driver.start(spec)
    print(f"order -> first instruction on 8 encrypted files: {(time.monotonic() - begun) * 1000:.0f} ms")
    pid = (await saved.vm.driver.info("web-1")).pid
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    assert (int(user) + int(system)) / os.sysconf("SC_CLK_TCK") < OPENED_CPU_S_MAX
    await guest_up(saved.vm.driver)
    assert [await saved.vm.sh(digest_of("/dev/vdb", 4 * number)) for number in range(1, 9)] == was
