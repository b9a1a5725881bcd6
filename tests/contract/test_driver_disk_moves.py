"""The Driver contract's part about guests that move between nodes with pools of their own, and take their disks along; between
hosts, so that QEMU's streams are encrypted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest

from proto.machine import Disk, MachineSpec
from services.node.drivers import CannotMove, CannotStart, Driver, Move
from tests.contract.driver_rigs import GUEST_S_MAX, Rig, guest_up, told
from tests.contract.test_driver_moves import here as here
from tests.contract.test_driver_moves import over
from tests.contract.test_driver_moves import rig as rig

SUM = "dd if=/dev/vda bs=512 count=2 2>/dev/null | sha256sum; blockdev --getsize64 /dev/vda 2>/dev/null || cat /sys/block/vda/size"
WRITER = "n=0; while [ ! -e /run/stop ]; do n=$((n+1)); echo $n >> /data/log; [ $((n % 20)) = 0 ] && sync; done"


@pytest.fixture
async def there(rig: Rig) -> AsyncIterator[Driver]:
    made = rig.apart("n2")
    await made.open()
    yield made
    await made.close()


async def disk_up(rig: Rig, driver: Driver) -> None:
    """Until the guest has its disk, at /data."""
    await guest_up(driver)
    if rig.real:
        wait = "until grep -q ' /data ' /proc/mounts; do sleep 0.1; done"
        assert (await driver.exec("web-1", ("sh", "-c", wait), b"", GUEST_S_MAX)).exit_code == 0


def along(rig: Rig, generation: int) -> MachineSpec:
    """The machine with its disk as it is where the guest brings it to."""
    spec = rig.spec(generation=generation)
    return msgspec.structs.replace(spec, disks=(named(spec.disks[0], generation),))


def named(disk: Disk, generation: int) -> Disk:
    return msgspec.structs.replace(disk, file=f"web-1-disk0.{generation}.{disk.format}")


def made(spec: MachineSpec) -> MachineSpec:
    """As of a later start."""
    return msgspec.structs.replace(spec, disks=tuple(msgspec.structs.replace(d, made=True) for d in spec.disks))


async def ways(rig: Rig, source: Driver, target: Driver, incoming: int = 2) -> tuple[Move, Move]:
    """(for the source, for the target)"""
    can, could = await source.capabilities(), await target.capabilities()
    out = Move(rig.spec().disks, can.pool_ids, incoming, could.move_key)
    return out, Move(along(rig, incoming).disks, can.pool_ids, incoming, can.move_key)


async def test_a_guest_takes_its_disk_along(rig: Rig, here: Driver, there: Driver) -> None:
    changes = here.changes()
    await rig.settled(here, rig.spec())
    await rig.write(here, "/data/kept", b"on its disk")
    out, way = await ways(rig, here, there)
    waiting = await there.receive(along(rig, 2), way)
    file = along(rig, 2).disks[0].file
    assert rig.disks("n2") == [file]
    with pytest.raises(CannotMove, match="whole"):
        await there.activate("web-1")
    await here.send("web-1", waiting.address, out)
    change = await over(changes)
    assert (change.status, change.unsent) == ("sent", "")
    await here.kill("web-1")
    assert (await there.activate("web-1")).status == "paused"
    await there.resume("web-1")
    assert await rig.read(there, "/data/kept") == b"on its disk"
    await here.remove_disks("web-1", rig.spec().disks)
    assert (rig.disks("n1"), rig.disks("n2")) == ([], [file])
    await there.exec("web-1", ("sync",), b"", GUEST_S_MAX)
    await there.kill("web-1")
    again = msgspec.structs.replace(along(rig, 2), generation=3)
    await there.start(made(again))
    await disk_up(rig, there)
    assert await rig.read(there, "/data/kept") == b"on its disk"
    await there.kill("web-1")
    assert rig.left_over("n1") == rig.left_over("n2") == []


async def test_what_came_is_its_disk_also_where_it_never_went_on(rig: Rig, here: Driver, there: Driver) -> None:
    """The process that it came into died before it was activated: the next start finds what it brought."""
    changes = here.changes()
    await rig.settled(here, rig.spec())
    await rig.write(here, "/data/kept", b"on its disk")
    assert (await here.exec("web-1", ("true",), b"", GUEST_S_MAX)).exit_code == 0
    out, way = await ways(rig, here, there)
    waiting = await there.receive(along(rig, 2), way)
    await here.exec("web-1", ("sync",), b"", GUEST_S_MAX)
    await here.send("web-1", waiting.address, out)
    assert (await over(changes)).status == "sent"
    await here.kill("web-1")
    await there.kill("web-1")
    await there.start(made(msgspec.structs.replace(along(rig, 2), generation=3)))
    await disk_up(rig, there)
    assert await rig.read(there, "/data/kept") == b"on its disk"


async def test_a_disk_leaves_its_image_behind_where_that_is_not_there(rig: Rig, here: Driver, there: Driver) -> None:
    """All that its guest sees of it goes along, and stands on nothing there."""
    changes = here.changes()
    await rig.settled(here, rig.spec())
    await rig.write(here, "/data/kept", b"on its disk")
    await here.exec("web-1", ("sync",), b"", GUEST_S_MAX)
    before = (await here.exec("web-1", ("sh", "-c", SUM), b"", GUEST_S_MAX)).stdout
    out, way = await ways(rig, here, there)
    spec = along(rig, 2)
    spec = msgspec.structs.replace(spec, disks=tuple(msgspec.structs.replace(d, image="") for d in spec.disks))
    waiting = await there.receive(spec, msgspec.structs.replace(way, disks=spec.disks))
    await here.send("web-1", waiting.address, msgspec.structs.replace(out, whole=("root",)))
    assert (await over(changes)).status == "sent"
    await here.kill("web-1")
    await there.activate("web-1")
    await there.resume("web-1")
    assert await rig.read(there, "/data/kept") == b"on its disk"
    await there.exec("web-1", ("sync",), b"", GUEST_S_MAX)
    await there.kill("web-1")
    await there.start(made(msgspec.structs.replace(spec, generation=3)))
    await disk_up(rig, there)
    assert await rig.read(there, "/data/kept") == b"on its disk"
    assert (await there.exec("web-1", ("sh", "-c", SUM), b"", GUEST_S_MAX)).stdout == before


async def test_what_was_recalled_runs_on_with_its_own_disk(rig: Rig, here: Driver, there: Driver) -> None:
    changes = here.changes()
    await rig.settled(here, rig.spec())
    out, way = await ways(rig, here, there)
    waiting = await there.receive(along(rig, 2), way)
    await here.send("web-1", waiting.address, out)
    assert (await over(changes)).status == "sent"
    assert (await here.recall("web-1")).status == "running"
    await rig.write(here, "/data/kept", b"written since")
    await there.kill("web-1")
    await there.remove_disks("web-1", along(rig, 2).disks)
    assert rig.disks("n2") == []
    out, way = await ways(rig, here, there, 3)
    waiting = await there.receive(along(rig, 3), way)
    await here.send("web-1", waiting.address, out)
    assert (await here.recall("web-1")).sending is False  # whether disks, memory or nothing was under way
    await there.kill("web-1")
    out, way = await ways(rig, here, there, 4)
    waiting = await there.receive(along(rig, 4), way)
    await here.send("web-1", waiting.address, out)
    assert (await over(changes)).status == "sent"
    await here.kill("web-1")
    await there.activate("web-1")
    await there.resume("web-1")
    assert await rig.read(there, "/data/kept") == b"written since"


async def test_disks_that_should_be_there_are_not_made_anew(rig: Rig, here: Driver, there: Driver) -> None:
    await here.start(rig.spec())
    with pytest.raises(CannotStart):
        await there.receive(rig.spec(generation=2))  # its disk is not there, and nobody brings it
    _, way = await ways(rig, there, there)
    with pytest.raises(CannotStart, match="the very one"):
        await there.receive(along(rig, 2), way)
    assert rig.disks("n2") == []
    with pytest.raises(CannotStart, match="not there"):
        await there.start(made(rig.spec(generation=2)))
    assert rig.disks("n2") == []


async def test_the_next_agent_sends_a_disk_anew(rig: Rig, here: Driver, there: Driver) -> None:
    await rig.settled(here, rig.spec())
    out, way = await ways(rig, here, there)
    waiting = await there.receive(along(rig, 2), way)
    await here.send("web-1", waiting.address, out)
    await here.close()
    second = rig.driver("n1")
    machine = (await second.open())[0]
    changes = second.changes()
    if machine.status != "sent":
        if not machine.sending:
            await second.send("web-1", waiting.address, out)
        change = await over(changes)
        if change.unsent:
            assert (await second.exec("web-1", ("true",), b"", GUEST_S_MAX)).exit_code == 0
            await second.close()
            return
    await second.kill("web-1")
    await there.activate("web-1")
    await there.resume("web-1")
    assert (await there.exec("web-1", ("true",), b"", GUEST_S_MAX)).exit_code == 0
    await second.close()


@pytest.mark.parametrize("rig", ["qemu"], indirect=True)
async def test_a_writer_loses_nothing_and_a_target_that_dies_takes_nothing(rig: Rig, here: Driver, there: Driver) -> None:
    changes = here.changes()
    await rig.settled(here, rig.spec())
    await here.exec("web-1", ("sh", "-c", f"({WRITER}) >/dev/null 2>&1 &"), b"", GUEST_S_MAX)
    out, way = await ways(rig, here, there)
    waiting = await there.receive(along(rig, 2), way)
    await here.send("web-1", waiting.address, out)
    await there.kill("web-1")
    assert (await over(changes)).unsent
    lines = (await here.exec("web-1", ("wc", "-l", "/data/log"), b"", GUEST_S_MAX)).stdout
    assert int(lines.split()[0]) > 0
    out, way = await ways(rig, here, there, 3)
    waiting = await there.receive(along(rig, 3), way)
    await here.send("web-1", waiting.address, out)
    assert (await over(changes)).status == "sent"
    await here.kill("web-1")
    await there.activate("web-1")
    await there.resume("web-1")
    counted = int((await there.exec("web-1", ("wc", "-l", "/data/log"), b"", GUEST_S_MAX)).stdout.split()[0])
    assert counted > int(lines.split()[0])
    # the writer ends, and what is counted is read from the disk, not from the memory that came with it
    check = "touch /run/stop; sync; echo 3 > /proc/sys/vm/drop_caches; "
    check += "awk '$1 != NR { bad = NR } END { print bad + 0 }' /data/log"
    done = await there.exec("web-1", ("sh", "-c", check), b"", GUEST_S_MAX)
    assert (done.exit_code, done.error, done.stdout.strip()) == (0, "", b"0"), done


@pytest.mark.parametrize("rig", ["qemu"], indirect=True)
async def test_who_has_another_key_is_not_let_in(rig: Rig, here: Driver, there: Driver) -> None:
    changes = here.changes()
    await rig.settled(here, rig.spec())
    out, way = await ways(rig, here, there)
    waiting = await there.receive(along(rig, 2), way)
    wrong = msgspec.structs.replace(out, peer_key=out.peer_key, incoming=7)
    for move in (wrong, msgspec.structs.replace(wrong, disks=())):
        try:
            await here.send("web-1", waiting.address, move)
        except CannotMove:
            continue
        except Exception as error:
            assert "handshake" in str(error) or "TLS" in str(error), error
            continue
        assert (await over(changes)).unsent
    with pytest.raises(CannotMove, match="too old"):
        await here.send("web-1", waiting.address, Move())
    assert (await here.exec("web-1", ("true",), b"", GUEST_S_MAX)).exit_code == 0
    await asyncio.wait_for(there.kill("web-1"), 20)
    assert (await told(there.changes(), "gone")).generation == 2
