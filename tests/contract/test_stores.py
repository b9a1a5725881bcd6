"""Disks in pools of each kind, under real guests: born with, plugged, fenced, moved, removed. One suite for all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from proto.io import ImageFormat
from proto.machine import Disk, DiskBus, DiskFormat, MachineSpec
from proto.space import PoolKind
from services.node.drivers import NO_SPACE, BadImage, CannotStart, LeaseRefused, Locked
from services.node.drivers.qemu.driver import QemuDriver
from services.node.drivers.qemu.stores.nbd import NbdStore
from services.node.drivers.qemu.stores.settings import Nbd
from tests.contract.driver_rigs import QemuRig, guest_up, rig_of, told
from tests.contract.small_pool import small_pool
from tests.contract.store_rigs import NbdRig, StoreRig, store_rig
from tests.contract.test_driver_moves import over
from tests.contract.test_driver_space import in_guest

MIB = 16
EXPORTS = ("web-1-disk1.raw", "web-1-disk2.raw")
FILL = f"dd if=/dev/urandom of=DEV bs=1M count={MIB // 2} conv=fsync 2>/dev/null; echo 3 > /proc/sys/vm/drop_caches; "
SUM = f"dd if=DEV bs=1M count={MIB // 2} 2>/dev/null | md5sum"


@pytest.fixture
def qemu(tmp_path: Path) -> Iterator[QemuRig]:
    for rig in rig_of("qemu", tmp_path):
        assert isinstance(rig, QemuRig)
        yield rig


@pytest.fixture(params=["folder", "nbd", "rbd"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StoreRig]:
    with store_rig(request.param, tmp_path, EXPORTS, MIB) as rig:
        yield rig


def agent(qemu: QemuRig, store: StoreRig, node: str = "n1") -> QemuDriver:
    pools = {"default": qemu.pool} | store.pools()
    return QemuDriver(node, qemu.top / node, pools, share=2, cache=qemu.top.parent / "probes", remotes=store.remotes())


def disk(slot: int, bus: DiskBus = DiskBus.VIRTIO_BLK, **more: object) -> Disk:
    made = Disk(
        name=f"disk{slot}", pool="other", file=f"web-1-disk{slot}.raw", size_mib=MIB, format=DiskFormat.RAW, serial=f"s{slot}",
        slot=slot, bus=bus,
    )  # fmt: skip
    return replace(made, **more)


def machine(qemu: QemuRig, *disks: Disk, generation: int = 1) -> MachineSpec:
    spec = qemu.spec(generation=generation)
    return replace(spec, disks=(*spec.disks, *disks))


async def test_a_guest_keeps_what_it_wrote_over_a_restart_and_another_node(qemu: QemuRig, store: StoreRig) -> None:
    here, there = agent(qemu, store), agent(qemu, store, "n2")
    for driver in (here, there):
        await driver.open()
    assert (await here.capabilities()).pool_ids["other"] == (await there.capabilities()).pool_ids["other"] != ""
    kinds = {"folder": PoolKind.LOCAL, "nbd": PoolKind.NBD, "rbd": PoolKind.RBD}
    assert {pool.name: (pool.kind, pool.error) for pool in await here.pools(files=True)}["other"] == (kinds[store.kind], "")
    await here.start(machine(qemu, disk(1)))
    await guest_up(here)
    sum = await in_guest(here, (FILL + SUM).replace("DEV", "/dev/vdb"))

    # one generation writes: the lease is asked on each node, whatever the store
    with pytest.raises(LeaseRefused, match="n1"):
        await there.start(machine(qemu, disk(1)))
    with pytest.raises(Locked):
        await there.start(machine(qemu, disk(1), generation=2))
    assert (await here.open())[0].status == "running"
    await here.kill("web-1")
    await there.start(machine(qemu, disk(1, made=True), generation=3))
    with pytest.raises(LeaseRefused, match="generation 3"):
        await here.start(machine(qemu, disk(1), generation=2))
    await guest_up(there)
    assert await in_guest(there, SUM.replace("DEV", "/dev/vdb")) == sum
    await there.kill("web-1")
    await there.remove_disks("web-1", (disk(1),))
    await there.remove_disks("web-1", (disk(1),))
    for driver in (here, there):
        await driver.close()


async def test_a_disk_is_plugged_and_unplugged_and_its_pool_is_leased_first(qemu: QemuRig, store: StoreRig) -> None:
    driver = agent(qemu, store)
    await driver.open()
    if store.kind == "folder":  # a pool of files has to be handed over at the start, where QEMU's user cannot pass its folders
        spec = machine(qemu, disk(1))
        await driver.start(spec)
        await guest_up(driver)
    else:
        spec = machine(qemu)
        await qemu.settled(driver, spec)
    more = replace(spec, disks=(*spec.disks, disk(2, DiskBus.VIRTIO_SCSI)))
    fitted = await driver.fit(more)
    assert fitted.hardware is not None and fitted.hardware.misfits == ()
    assert (store.pools()["other"] / "leases" / "web-1.lease").exists()
    await in_guest(driver, "while ! [ -b /dev/sda ]; do sleep 0.1; done")
    sum = await in_guest(driver, (FILL + SUM).replace("DEV", "/dev/sda"))
    gone = await driver.fit(replace(spec, leaving=(2,)))
    assert gone.hardware is not None and gone.hardware.misfits == ()
    await driver.fit(more)
    await in_guest(driver, "while ! [ -b /dev/sda ]; do sleep 0.1; done")
    assert await in_guest(driver, SUM.replace("DEV", "/dev/sda")) == sum
    await driver.kill("web-1")
    await driver.close()


async def test_a_guest_moves_and_its_disk_stays_where_it_is(qemu: QemuRig, store: StoreRig) -> None:
    here, there = agent(qemu, store), agent(qemu, store, "n2")
    for driver in (here, there):
        await driver.open()
    changes = here.changes()
    await here.start(machine(qemu, disk(1)))
    await guest_up(here)
    sum = await in_guest(here, (FILL + SUM).replace("DEV", "/dev/vdb"))
    waiting = await there.receive(machine(qemu, disk(1, made=True), generation=2))
    await here.send("web-1", waiting.address)
    assert (await over(changes)).status == "sent"
    await here.kill("web-1")
    await there.activate("web-1")
    await there.resume("web-1")
    assert await in_guest(there, f"echo 3 > /proc/sys/vm/drop_caches; {SUM}".replace("DEV", "/dev/vdb")) == sum
    await in_guest(there, FILL.replace("DEV", "/dev/vdb") + "true")
    with pytest.raises(LeaseRefused, match="generation 2"):
        await here.start(machine(qemu, disk(1)))
    await there.kill("web-1")
    for driver in (here, there):
        await driver.close()


# --- what an NBD server has of its own -------------------------------------------------------------------------------


@pytest.fixture
def nbd(tmp_path: Path) -> Iterator[NbdRig]:
    with store_rig("nbd", tmp_path, EXPORTS, MIB) as rig:
        assert isinstance(rig, NbdRig)
        yield rig


async def test_an_export_that_is_not_there_or_too_small_is_refused_with_the_reason(qemu: QemuRig, nbd: NbdRig) -> None:
    driver = agent(qemu, nbd)
    await driver.open()
    for wanted, words in (
        (disk(3), "the export web-1-disk3.raw of the NBD server at .* is not there, and disks of pool other are not made"),
        (disk(1, size_mib=MIB + 1), f"is of {MIB} MiB; disk1 is to have {MIB + 1}: make it larger there"),
        (disk(1, format=DiskFormat.QCOW2), "disks of an NBD pool are raw"),
        (disk(1, image="tiny"), "stand on no image"),
        (disk(3, made=True), "nothing is made in its place"),
    ):
        with pytest.raises(CannotStart, match=words):
            await driver.start(machine(qemu, wanted))
    assert qemu.left_over("n1") == []
    with pytest.raises(BadImage, match="imported into pools that are folders"):
        await driver.import_image("other", "tiny", "tiny.qcow2", ImageFormat.QCOW2, "")
    nbd.end()
    with pytest.raises(CannotStart, match=r"the NBD server at .* does not answer"):
        await driver.start(machine(qemu, disk(1)))
    await driver.close()


async def test_a_guest_waits_for_a_server_that_comes_back(qemu: QemuRig, nbd: NbdRig) -> None:
    driver = agent(qemu, nbd)
    await driver.open()
    await driver.start(machine(qemu, disk(1)))
    await guest_up(driver)
    sum = await in_guest(driver, (FILL + SUM).replace("DEV", "/dev/vdb"))
    nbd.restart()
    assert await in_guest(driver, f"echo 3 > /proc/sys/vm/drop_caches; {SUM}".replace("DEV", "/dev/vdb")) == sum
    await driver.kill("web-1")
    await driver.close()


async def test_a_server_that_is_full_stops_its_guest_which_goes_on(qemu: QemuRig, tmp_path: Path) -> None:
    with small_pool(tmp_path / "server", 12) as files, store_rig("nbd", tmp_path, EXPORTS, MIB, files.folder) as store:
        driver = agent(qemu, store)
        await driver.open()
        changes = driver.changes()
        await driver.start(machine(qemu, disk(1)))
        await guest_up(driver)
        files.fill(leave_kib=2048)
        await in_guest(driver, f"dd if=/dev/urandom of=/run/data bs=1M count={MIB // 2} 2>/dev/null")
        sum = await in_guest(driver, "md5sum < /run/data")
        await in_guest(driver, "(dd if=/run/data of=/dev/vdb bs=64k conv=fsync && echo whole > /run/done) > /run/said 2>&1 &")
        assert (await told(changes, NO_SPACE)).full == (1,)
        files.empty()
        await driver.resume("web-1")
        await in_guest(driver, "while ! [ -e /run/done ]; do sleep 0.1; done")
        assert await in_guest(driver, f"echo 3 > /proc/sys/vm/drop_caches; {SUM}".replace("DEV", "/dev/vdb")) == sum
        await driver.kill("web-1")
        await driver.close()
        qemu.end()


def test_what_answers_another_protocol_is_no_server(tmp_path: Path) -> None:
    import socket
    import threading

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def speak() -> None:
            for words in (b"SSH-2.0-something else\r\n" * 4, b"NBDMAGICIHAVEOPT\0\0", b""):
                sock, _ = server.accept()
                with sock:
                    sock.sendall(words)

        speaker = threading.Thread(target=speak)
        speaker.start()
        for words in ("another protocol", "an old form", "hung up"):
            with pytest.raises(CannotStart, match=words):
                NbdStore("net", Nbd(host="127.0.0.1", port=port)).exists(disk(1))
        speaker.join()
