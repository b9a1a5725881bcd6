"""Pools that are no folders: what a setting may say, and the words that QEMU and the `rbd` tool get of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from msgspec.structs import replace

from proto.machine import Disk, DiskBus, DiskFormat, MachineSpec
from services.node.config import NodeConfig
from services.node.drivers import CannotStart
from services.node.drivers.qemu.argv import BadSpec, build
from services.node.drivers.qemu.devices import disk_nodes
from services.node.drivers.qemu.stores.rbd import RbdStore
from services.node.drivers.qemu.stores.settings import Nbd, Rbd, parse
from tests.model.test_argv import GOLDEN, MINIMAL, PLACE

NBD = Nbd(host="10.0.0.5", port=10809)
CEPH = Rbd(pool="vms", conf="/etc/ceph/ceph.conf", user="asv")
DISK = Disk(name="disk0", pool="net", file="web-1-disk0.raw", size_mib=64, format=DiskFormat.RAW, serial="s-0", slot=1)
LEASES = Path("/srv/leases")


@pytest.mark.parametrize(
    ("url", "at"),
    [
        ("nbd://10.0.0.5?leases=/srv/leases", NBD),
        ("nbd://[fd00::5]:77?leases=/srv/leases", Nbd(host="fd00::5", port=77)),
        ("nbd+unix:///run/nbd.sock?leases=/srv/leases", Nbd(socket="/run/nbd.sock")),
        ("nbd://10.0.0.5?leases=/srv/leases&backups=asv", replace(NBD, backups="asv")),
        ("rbd://vms?conf=/etc/ceph/ceph.conf&user=asv&leases=/srv/leases", CEPH),
        ("rbd://vms?leases=/srv/leases", replace(CEPH, user="admin")),
    ],
)
def test_a_setting_says_where_disks_are_and_where_their_leases(url: str, at: Nbd | Rbd) -> None:
    assert parse("net", url) == (LEASES, at)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("nbd://10.0.0.5", "needs leases=/FOLDER, one that all nodes with this pool share"),
        ("rbd://vms?leases=srv", "needs leases=/FOLDER"),
        ("iscsi://host?leases=/srv", "is no kind of pool; there are a folder, nbd, nbd+unix, rbd"),
        ("nbd://host:port?leases=/srv", "nbd://HOST:PORT?leases=/FOLDER is right"),
        ("nbd://?leases=/srv", "nbd://HOST:PORT?leases=/FOLDER is right"),
        ("nbd+unix://run/nbd?leases=/srv", "nbd+unix:///PATH/OF/SOCKET?leases=/FOLDER is right"),
        ("rbd://vms/one?leases=/srv", "rbd://POOL?conf=/FILE&user=NAME&leases=/FOLDER is right"),
        ("rbd://-x?leases=/srv", "rbd://POOL"),
        ("rbd://vms?key=AQBx&leases=/srv", "rbd knows no key; it takes conf, leases, user"),
        ("nbd://host?leases=/srv&backups=../x", "backups=../x is no export's name"),
        ("rbd://vms?backups=asv&leases=/srv", "rbd knows no backups"),
        ("rbd://asv:secret@vms?leases=/srv", "no secret is written into a setting"),
    ],
)
def test_a_setting_that_cannot_be_says_what_would_be_right(url: str, words: str) -> None:
    with pytest.raises(ValueError, match="pool net: ") as wrong:
        parse("net", url)
    assert words in str(wrong.value)
    assert "secret@" not in str(wrong.value) and "AQBx" not in str(wrong.value)


def test_an_agent_does_not_begin_without_the_folder_of_the_leases(tmp_path: Path) -> None:
    def config(folder: Path) -> NodeConfig:
        return NodeConfig(node="n1", state=tmp_path, pools=("default=/srv/pool", f"net=nbd://10.0.0.5?leases={folder}"))

    config(tmp_path).check()
    assert config(tmp_path).pool_folders() == {"default": Path("/srv/pool"), "net": tmp_path}
    assert config(tmp_path).remote_pools() == {"net": NBD}
    with pytest.raises(ValueError, match="for the leases of pool net, is no folder: is it mounted"):
        config(tmp_path / "away").check()
    with pytest.raises(ValueError, match="is not NAME=FOLDER or NAME=URL"):
        replace(config(tmp_path), pools=("default",)).check()


def remote(*disks: Disk) -> MachineSpec:
    return replace(MINIMAL, disks=disks)


def test_qemus_command_line_of_disks_that_are_no_files_word_for_word() -> None:
    """Written anew with ASV_GOLDEN=write, as the others."""
    import os

    ceph = replace(DISK, name="disk1", pool="ceph", file="web-1-disk1.raw", serial="s-1", slot=2, bus=DiskBus.VIRTIO_SCSI)
    pools = PLACE.pools | {"net": "/srv/leases", "ceph": "/srv/leases"}
    words = build("qemu-system-x86_64", remote(DISK, ceph), replace(PLACE, pools=pools, remotes={"net": NBD, "ceph": CEPH}))
    lines = "\n".join(words) + "\n"
    golden = GOLDEN / "remote.argv"
    if os.environ.get("ASV_GOLDEN") == "write":
        golden.write_text(lines, encoding="utf-8")
    assert lines == golden.read_text(encoding="utf-8")


def test_a_hot_plug_says_the_same_and_a_socket_is_named_as_one() -> None:
    below, top = disk_nodes(DISK, "", False, (), Nbd(socket="/run/nbd.sock"))
    assert below["server"] == {"type": "unix", "path": "/run/nbd.sock"} and below["export"] == "web-1-disk0.raw"
    assert (below["node-name"], top["node-name"], top["file"], top["driver"]) == ("disk1-file", "disk1", "disk1-file", "raw")


def test_a_cd_is_a_file() -> None:
    cd = replace(DISK, bus=DiskBus.CDROM, image="iso")
    place = replace(PLACE, pools=PLACE.pools | {"net": "/srv/leases"}, remotes={"net": NBD})
    with pytest.raises(BadSpec, match="is no folder: CDs are files"):
        build("qemu", remote(cd), place)


class Ceph:
    """What the `rbd` tool was asked, and images as it would have them."""

    def __init__(self, sizes_mib: dict[str, int], watchers: int = 0) -> None:
        self.sizes_mib, self.watchers = sizes_mib, watchers
        self.asked: list[str] = []

    def __call__(self, words: Sequence[str]) -> tuple[int, str, str]:
        assert list(words[:5]) == ["rbd", "--conf", "/etc/ceph/ceph.conf", "--id", "asv"]
        verb, *rest = words[5:]
        self.asked.append(" ".join((verb, *rest)))
        size_mib = self.sizes_mib.get(rest[-1])
        if verb in ("info", "status", "rm") and size_mib is None:
            return 2, "", f"rbd: error opening image: (2) No such file or directory\n{verb}\n"
        if verb == "info":
            return 0, json.dumps({"name": rest[-1], "size": (size_mib or 0) << 20}), ""
        if verb == "status":
            return 0, json.dumps({"watchers": [{"address": "10.0.0.7"}] * self.watchers}), ""
        if verb == "clone" and rest[0] not in self.sizes_mib:
            return 2, "", "rbd: error opening parent image: (2) No such file or directory\n\n"
        self.sizes_mib[rest[-1]] = 64
        return 0, "", ""


def test_the_rbd_tool_is_asked_word_for_word() -> None:
    ceph = Ceph({})
    store = RbdStore("ceph", CEPH, ceph)
    assert not store.exists(DISK)
    store.make(DISK, None)
    assert store.exists(DISK)
    store.ready(DISK, 1000)
    store.ready(replace(DISK, size_mib=128), 1000)
    assert not store.is_open(DISK)
    store.remove(DISK)
    assert ceph.asked == [
        "info --format json vms/web-1-disk0.raw",
        "create --size 64M --image-feature layering,exclusive-lock,object-map,fast-diff vms/web-1-disk0.raw",
        "info --format json vms/web-1-disk0.raw",
        "info --format json vms/web-1-disk0.raw",
        "info --format json vms/web-1-disk0.raw",
        "resize --no-progress --size 128M vms/web-1-disk0.raw",
        "status --format json vms/web-1-disk0.raw",
        "rm --no-progress vms/web-1-disk0.raw",
    ]


def test_a_disk_on_an_image_is_a_clone_of_its_snapshot() -> None:
    wanted = replace(DISK, image="tiny")
    ceph = Ceph({"vms/image-tiny@asv": 32})
    RbdStore("ceph", CEPH, ceph).make(wanted, None)
    assert ceph.asked == ["clone vms/image-tiny@asv vms/web-1-disk0.raw"]
    with pytest.raises(CannotStart, match="rbd clone in pool ceph: rbd: error opening parent image"):
        RbdStore("ceph", CEPH, Ceph({})).make(wanted, None)


def test_what_is_open_is_seen_what_is_missing_is_fine_and_qcow2_is_refused() -> None:
    store = RbdStore("ceph", CEPH, Ceph({"vms/web-1-disk0.raw": 64}, watchers=1))
    assert store.is_open(DISK)
    empty = RbdStore("ceph", CEPH, Ceph({}))
    assert not empty.is_open(DISK)
    empty.remove(DISK)
    with pytest.raises(CannotStart, match="disks of an RBD pool are raw"):
        store.make(replace(DISK, format=DiskFormat.QCOW2), None)
