"""Files of backups before QEMU is given them: what is refused, and with which words; and what a header names. No QEMU runs."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from msgspec.structs import replace

from libs.common import backup_key
from proto.machine import Disk, DiskFormat, Layer, Origin
from services.node.drivers import CannotStart
from services.node.drivers.qemu import disks, firmware, layers, origins
from services.node.drivers.qemu.devices import fdset, slot_of
from services.node.drivers.qemu.keyring import Keyring
from services.node.drivers.qemu.layers import backing_of, beneath, named, ordered
from services.node.drivers.qemu.qemu_img import QemuImg
from services.node.host.ovmf import Ovmf

SIZE_MIB = 8
RING = Keyring(Path("/nonexistent"), "n1")
FULL, NEWER = "b1-1", "b1-2"


def file_of(backup: str) -> str:
    return f"old-1-root.{backup}.qcow2"


@pytest.fixture
def pools(tmp_path: Path) -> dict[str, Path]:
    """A disk in one pool, on two backups in another."""
    found = {"default": tmp_path / "default", "safe": tmp_path / "safe"}
    tool = QemuImg()
    for pool in found.values():
        disks.make_pool(pool)
    for backup, base in ((FULL, ""), (NEWER, f"../{FULL}/{file_of(FULL)}")):
        folder = found["safe"] / "backups" / "old-1" / backup
        folder.mkdir(parents=True)
        tool.saved(folder / file_of(backup), SIZE_MIB << 20, base, compressed=False)
    tool.on_backup(found["default"] / "disks" / DISK.file, named(ordered(DISK, None)[0]), DiskFormat.QCOW2, 2 * SIZE_MIB)
    return found


def layer(backup: str, **changes: object) -> Layer:
    origin = Origin(vm="old-1", backup=backup, pool="safe")
    return Layer(file=file_of(backup), format=DiskFormat.QCOW2, leaving=True, origin=replace(origin, **changes))


DISK = Disk(
    name="root", pool="default", file="new-1-root.r1.qcow2", size_mib=2 * SIZE_MIB, format=DiskFormat.QCOW2, serial="s", slot=3,
    layers=(layer(NEWER), layer(FULL)),
)  # fmt: skip


def opened(pools: dict[str, Path], disk: Disk = DISK) -> list[tuple[int, str]]:
    """(set, name) of what QEMU would be given."""
    with ExitStack() as open_files:
        origins.check(pools, disk)
        handed = origins.hand(pools, {disk.name: beneath(pools, disk, None)}, (disk,), open_files)
        assert all(os.get_blocking(one.fd) and not os.get_inheritable(one.fd) for one in handed)
        return [(one.into, one.file) for one in handed]


def test_a_header_names_a_backup_by_a_word_that_is_no_path(pools: dict[str, Path]) -> None:
    said = backing_of(pools["default"] / "disks" / DISK.file)
    assert said == f"asv-backup/safe/old-1/{NEWER}/{file_of(NEWER)}"
    assert opened(pools) == [(fdset(3, 0), file_of(NEWER)), (fdset(3, 1), file_of(FULL))]
    assert {slot_of(fdset(3, depth)) for depth in range(16)} == {3}


def test_what_came_home_is_not_opened(pools: dict[str, Path]) -> None:
    """The header says it, whatever is ordered."""
    own = pools["default"] / "disks" / DISK.file
    own.unlink()
    QemuImg().blank(own, DiskFormat.QCOW2, 2 * SIZE_MIB)
    assert opened(pools) == []


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def grown(path: Path) -> None:
    os.truncate(path, path.stat().st_size + 1)


def link(path: Path) -> None:
    aside = path.with_suffix(".aside")
    path.rename(aside)
    path.symlink_to(aside)


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (Path.unlink, "not there"),
        (cut, "bytes, and had"),
        (grown, "bytes, and had"),
        (lambda path: os.truncate(path, 4096), "bytes, and had"),
        (link, "cannot be opened"),
    ],
)
@pytest.mark.parametrize("backup", [FULL, NEWER])
def test_a_file_that_is_not_what_it_was_names_its_backup(
    pools: dict[str, Path], backup: str, harm: Callable[[Path], None], says: str
) -> None:
    path = pools["safe"] / "backups" / "old-1" / backup / file_of(backup)
    sizes = {b: (pools["safe"] / "backups" / "old-1" / b / file_of(b)).stat().st_size for b in (FULL, NEWER)}
    known = replace(DISK, layers=tuple(layer(b, bytes=sizes[b]) for b in (NEWER, FULL)))
    assert len(opened(pools, known)) == 2
    harm(path)
    with pytest.raises(CannotStart, match=f"the backup {backup} of old-1 in pool safe is damaged: .*{says}"):
        opened(pools, known)


def test_one_that_was_cut_off_is_seen_without_its_size(pools: dict[str, Path]) -> None:
    os.truncate(pools["safe"] / "backups" / "old-1" / FULL / file_of(FULL), 4096)
    with pytest.raises(CannotStart, match=f"the backup {FULL} of old-1 .*cut off"):
        opened(pools)


def test_one_that_stands_on_something_else_is_refused(pools: dict[str, Path]) -> None:
    elsewhere = replace(DISK, layers=(layer(NEWER), layer(FULL, vm="other-1")))
    with pytest.raises(CannotStart, match="of which the order knows nothing"):
        opened(pools, elsewhere)


@pytest.mark.parametrize(
    ("disk", "says"),
    [
        (replace(DISK, format=DiskFormat.RAW), "only a qcow2 disk"),
        (replace(DISK, image="tiny"), "not on the image 'tiny'"),
        (replace(DISK, layers=(layer(NEWER, pool_id="0" * 16),)), "is another"),
        (replace(DISK, layers=(layer(NEWER, pool="far"),)), "'far', which this node does not have"),
    ],
)
def test_a_disk_that_cannot_stand_there_is_told_why(pools: dict[str, Path], disk: Disk, says: str) -> None:
    with pytest.raises(CannotStart, match=says):
        origins.check(pools, disk)
        layers.path_of(pools, disk, ordered(disk, None)[0])


def test_uefi_variables_begin_as_the_backups_and_are_the_vms_own_from_then_on(pools: dict[str, Path], tmp_path: Path) -> None:
    template = tmp_path / "template"
    template.write_bytes(b"t" * 64)
    ovmf = Ovmf(code=template, template=template, bytes=64)
    disk = replace(DISK, vars="new-1-root-vars.fd", vars_of="old-1-root.b1-2.vars")
    with pytest.raises(CannotStart, match="variables is not there"):
        origins.variables(pools, RING, disk)
    (pools["safe"] / "backups" / "old-1" / NEWER / disk.vars_of).write_bytes(b"b" * 64)
    own = pools["default"] / "disks" / disk.vars
    for _ in range(2):
        firmware.make(pools["default"], disk, ovmf, None, like=origins.variables(pools, RING, disk))
        assert own.read_bytes() == b"b" * 64
    own.write_bytes(b"w" * 64)
    (pools["safe"] / "backups" / "old-1" / NEWER / disk.vars_of).unlink()
    firmware.make(pools["default"], disk, ovmf, None, like=origins.variables(pools, RING, disk))
    assert own.read_bytes() == b"w" * 64
    assert origins.variables(pools, RING, replace(disk, layers=())) is None


def test_variables_of_an_encrypted_backup_begin_as_their_key_opens_them(pools: dict[str, Path], tmp_path: Path) -> None:
    key = backup_key.make("main")
    disk = replace(DISK, vars="new-1-root-vars.fd", vars_of="old-1-root.b1-2.vars", layers=(layer(NEWER, key=key.id), layer(FULL)))
    copy = pools["safe"] / "backups" / "old-1" / NEWER / disk.vars_of
    copy.write_bytes(backup_key.shut(key, b"b" * 64))
    ring = Keyring(tmp_path, "n1")
    with pytest.raises(CannotStart, match=f"the key {key.id}, which n1 does not have"):
        origins.variables(pools, ring, disk)
    ring.put(key)
    assert origins.variables(pools, ring, disk) == b"b" * 64
    copy.write_bytes(b"c" + copy.read_bytes()[1:])
    with pytest.raises(CannotStart, match=r"is damaged: .* it was changed"):
        origins.variables(pools, ring, disk)
