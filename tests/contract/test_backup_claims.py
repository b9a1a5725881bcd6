"""Windows of a real export as agents claim them: at once, after a crash, of what is damaged. No guest runs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest
from msgspec.structs import replace

from proto.space import PoolKind
from services.node.drivers import DriverError
from services.node.drivers.qemu import disks, qcow2
from services.node.drivers.qemu.backups import claims
from services.node.drivers.qemu.backups.claims import COOLING
from services.node.drivers.qemu.backups.layout import Shelf
from services.node.drivers.qemu.backups.windows import CLUSTER, Windows
from services.node.drivers.qemu.pool_figures import PoolFigures
from services.node.drivers.qemu.qemu_img import QemuImg
from services.node.drivers.qemu.stores.settings import Nbd
from tests.contract.store_rigs import NbdRig

DISK_BYTES = 20 << 20
MADE = 4 * CLUSTER
"""what an empty one takes"""


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[NbdRig]:
    rig = NbdRig(tmp_path, ("asv",), 512, backups="asv")
    disks.make_pool(rig.leases)
    yield rig
    rig.end()


@pytest.fixture
def media(rig: NbdRig) -> Windows:
    at = rig.remotes()["other"]
    assert isinstance(at, Nbd)
    return Windows("other", rig.leases, at)


def made(shelf: Shelf, backup: str) -> Path:
    path = shelf.begin(backup) / shelf.file_of("data", backup)
    shelf.media.make(path, DISK_BYTES, lambda file: QemuImg().saved(file, DISK_BYTES, "../b1-0/x.qcow2", compressed=False))
    return path


def test_agents_that_claim_at_once_have_nothing_in_common(rig: NbdRig, media: Windows) -> None:
    with ThreadPoolExecutor(8) as agents:
        paths = list(agents.map(lambda n: made(Shelf(rig.leases, f"vm-{n}", media), f"b1-{n}"), range(8)))
    there = sorted(claims.read(path).offset for path in paths)
    size = claims.read(paths[0]).size
    assert size > DISK_BYTES and all(after - before >= size for before, after in pairwise(there))
    for path in paths:
        assert qcow2.backing_name(path.name, media.head(path, qcow2.HEADER_BYTES)) == "../b1-0/x.qcow2"
        media.seal(path, 0)
        assert media.digest(path, threading.Event())[0] == media.size(path) == MADE
    free, size = media.room()
    assert free == size - claims.UNIT - 8 * MADE


def test_what_is_written_anew_takes_the_place_of_the_former_which_is_free_then(rig: NbdRig, media: Windows) -> None:
    path = made(Shelf(rig.leases, "web-1", media), "b1-1")
    media.seal(path, 0)
    former, new = claims.read(path), path.with_name(f"{path.name}.new")
    media.make(new, DISK_BYTES, lambda file: QemuImg().saved(file, DISK_BYTES, "", compressed=False))
    media.seal(new, 5 * CLUSTER)
    written = claims.read(new)
    assert written.offset != former.offset and written.size == 5 * CLUSTER
    media.replace(new, path)
    assert claims.read(path) == written and not new.exists() and claims.taken(rig.leases, 0) == [written]
    with (rig.files / "asv").open("rb") as export:
        export.seek(former.offset)
        assert not any(export.read(former.size)), "and its room was given back"


def test_what_may_still_be_written_to_is_nobody_elses(rig: NbdRig, media: Windows) -> None:
    shelf = Shelf(rig.leases, "web-1", media)
    claim = claims.read(made(shelf, "b1-1"))
    shelf.strand("b1-1")
    shelf.drop("b1-1")
    assert claims.taken(rig.leases, 0) == [claim], "its QEMU does not answer"
    other = claims.read(made(Shelf(rig.leases, "web-2", media), "b1-1"))
    assert other.offset >= claim.end
    shelf.clear_strays()
    free, size = media.room()
    assert (rig.leases / "backups" / COOLING).exists() and free == size - claims.UNIT - claim.size - other.size
    Shelf(rig.leases, "web-2", media).drop("b1-1", clean=True)
    assert media.room()[0] == media.room()[1] - claims.UNIT - claim.size, "one that was let go of is free at once"


def test_nothing_is_given_beside_a_claim_that_cannot_be_read_and_its_backup_can_be_removed(rig: NbdRig, media: Windows) -> None:
    shelf = Shelf(rig.leases, "web-1", media)
    path = made(shelf, "b1-1")
    path.write_bytes(b"{")
    with pytest.raises(DriverError, match="does not say where it lies"):
        made(Shelf(rig.leases, "web-2", media), "b1-1")
    path.parent.rename(shelf.folder("b1-1"))
    shelf.remove("b1-1")
    made(Shelf(rig.leases, "web-2", media), "b1-1")


async def test_it_is_told_which_pools_take_backups(rig: NbdRig) -> None:
    at = rig.remotes()["other"]
    assert isinstance(at, Nbd)
    for backups in ("asv", ""):
        (pool,) = await PoolFigures(rig.pools(), {"other": replace(at, backups=backups)}).all(files=False)
        assert (pool.kind, pool.backups, pool.size_mib) == (PoolKind.NBD, bool(backups), -1)
