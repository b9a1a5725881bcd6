"""The Driver contract's part about guests that move from one node's process to another's; kept by both drivers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from proto.compute import GoneCause
from services.node.drivers import CannotMove, CannotStart, Driver, LeaseRefused, Locked, MachineChanged, Move
from tests.contract.driver_rigs import QemuRig, Rig, rig_of, told

MOVE_S_MAX = 60.0


@pytest.fixture(params=["simulated", "qemu"])
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    yield from rig_of(request.param, tmp_path)


@pytest.fixture
async def here(rig: Rig) -> AsyncIterator[Driver]:
    made = rig.driver("n1")
    await made.open()
    yield made
    await made.close()


@pytest.fixture
async def there(rig: Rig) -> AsyncIterator[Driver]:
    made = rig.driver("n2")
    await made.open()
    yield made
    await made.close()


async def over(changes: AsyncIterator[MachineChanged]) -> MachineChanged:
    """The end of a sending, well or not."""
    async with asyncio.timeout(MOVE_S_MAX):
        async for change in changes:
            if change.status == "sent" or change.unsent:
                return change
    raise AssertionError("the changes ended before the sending did")


async def test_a_guest_goes_on_elsewhere_with_its_memory(rig: Rig, here: Driver, there: Driver) -> None:
    changes, arrivals = here.changes(), there.changes()
    await rig.settled(here, rig.spec())
    await rig.write(here, "/run/kept", b"only in its memory")
    before = await here.info("web-1", 10.0)
    waiting = await there.receive(rig.spec(generation=2))
    assert (waiting.status, waiting.generation) == ("incoming", 2) and waiting.address
    assert await there.receive(rig.spec(generation=2)) == waiting
    with pytest.raises(CannotMove):
        await there.resume("web-1")
    with pytest.raises(CannotMove, match="whole"):
        await there.activate("web-1")
    await here.send("web-1", waiting.address)
    await here.send("web-1", waiting.address)
    change = await over(changes)
    assert (change.status, change.generation, change.unsent) == ("sent", 1, "")
    assert change.sent_mib > 0 and change.paused_us > 0
    assert [m.status for m in await here.open()] == ["sent"]
    for verb in (here.resume, there.resume):
        with pytest.raises(CannotMove):
            await verb("web-1")
    with pytest.raises(Locked):
        await there.activate("web-1")  # the process that it left is still there
    await here.kill("web-1")
    assert (await told(changes, "gone")).cause in (GoneCause.ORDERED, GoneCause.CRASHED)
    assert (await there.activate("web-1")).status == "paused"
    assert (await there.activate("web-1")).status == "paused"
    await there.resume("web-1")
    after = await there.info("web-1", 10.0)
    assert (after.generation, after.status, after.guest_agent) == (2, "running", True)
    assert after.boot_id and (not rig.real or after.boot_id == before.boot_id)
    assert await rig.read(there, "/run/kept") == b"only in its memory"
    with pytest.raises(LeaseRefused, match="generation 2"):
        await here.start(rig.spec(generation=1))
    with pytest.raises(Locked):
        await here.start(rig.spec(generation=3))
    await there.kill("web-1")
    assert (await told(arrivals, "gone")).generation == 2
    assert rig.left_over("n1") == rig.left_over("n2") == []


async def test_a_guest_is_recalled_also_when_it_was_sent_whole(rig: Rig, here: Driver, there: Driver) -> None:
    changes = here.changes()
    await rig.settled(here, rig.spec())
    waiting = await there.receive(rig.spec(generation=2))
    await here.send("web-1", waiting.address)
    assert (await over(changes)).status == "sent"
    machine = await here.recall("web-1")
    assert (machine.status, machine.sending) == ("running", False)
    assert (await here.recall("web-1")).status == "running"
    assert (await here.exec("web-1", ("true",), b"", 10.0)).exit_code == 0
    await there.kill("web-1")
    assert rig.left_over("n2") == []
    again = await there.receive(rig.spec(generation=3))
    await here.send("web-1", again.address)
    assert (await over(changes)).status == "sent"
    await here.kill("web-1")
    assert (await there.activate("web-1")).generation == 3
    await there.resume("web-1")
    assert (await there.exec("web-1", ("true",), b"", 10.0)).exit_code == 0


async def test_a_target_that_dies_leaves_the_guest_where_it_is(rig: Rig, here: Driver, there: Driver) -> None:
    changes = here.changes()
    await rig.settled(here, rig.spec())
    waiting = await there.receive(rig.spec(generation=2))
    await there.kill("web-1")
    try:
        await here.send("web-1", waiting.address)
    except CannotMove:
        pass  # seen at once by the one, at the end by the other
    else:
        assert (await over(changes)).unsent
    assert [(m.status, m.sending) for m in await here.open()] == [("running", False)]
    assert (await here.exec("web-1", ("true",), b"", 10.0)).exit_code == 0


async def test_a_paused_guest_moves_and_stays_paused(rig: Rig, here: Driver, there: Driver) -> None:
    changes = here.changes()
    await rig.settled(here, rig.spec())
    await here.pause("web-1")
    waiting = await there.receive(rig.spec(generation=2))
    await here.send("web-1", waiting.address)
    assert (await over(changes)).status == "sent"
    await here.kill("web-1")
    assert (await there.activate("web-1")).status == "paused"
    await there.resume("web-1")
    assert (await there.exec("web-1", ("true",), b"", 10.0)).exit_code == 0


async def test_the_next_agents_find_a_guest_in_the_middle(rig: Rig, here: Driver, there: Driver) -> None:
    """Both agents are replaced after the guest was sent whole; nothing is lost, nothing runs by itself."""
    changes = here.changes()
    await rig.settled(here, rig.spec())
    waiting = await there.receive(rig.spec(generation=2))
    await there.close()
    second = rig.driver("n2")
    assert await second.open() == [waiting]
    await here.send("web-1", waiting.address)
    assert (await over(changes)).status == "sent"
    await here.close()
    await second.close()
    source, target = rig.driver("n1"), rig.driver("n2")
    assert [m.status for m in await source.open()] == ["sent"]
    assert [m.status for m in await target.open()] == ["incoming"]
    await source.kill("web-1")
    assert (await target.activate("web-1")).status == "paused"
    await target.close()
    third = rig.driver("n2")
    assert [m.status for m in await third.open()] == ["paused"]
    await third.resume("web-1")
    assert (await third.exec("web-1", ("true",), b"", 10.0)).exit_code == 0
    with pytest.raises(Locked):
        await source.start(rig.spec(generation=3))
    await third.kill("web-1")
    await source.close()
    await third.close()


async def test_a_generation_of_the_past_is_not_waited_for(rig: Rig, here: Driver, there: Driver) -> None:
    await here.start(rig.spec(generation=5))
    with pytest.raises(LeaseRefused, match="generation 5"):
        await there.receive(rig.spec(generation=4))
    with pytest.raises(CannotStart, match="generation 5"):
        await here.receive(rig.spec(generation=6))
    assert rig.left_over("n2") == []


async def test_a_guest_comes_in_over_the_network_where_that_was_said(tmp_path: Path) -> None:
    for rig in rig_of("qemu", tmp_path):
        assert isinstance(rig, QemuRig)
        here, there = rig.driver("n1"), rig.driver("n2", moves_at="127.0.0.1")
        await here.open()
        await there.open()
        changes = here.changes()
        await rig.settled(here, rig.spec())
        keys = [(await driver.capabilities()).move_key for driver in (here, there)]
        waiting = await there.receive(rig.spec(generation=2), Move(incoming=2, peer_key=keys[0]))
        assert waiting.address.startswith("tcp:127.0.0.1:") and not waiting.address.endswith(":0")
        await here.send("web-1", waiting.address, Move(incoming=2, peer_key=keys[1]))
        assert (await over(changes)).status == "sent"
        await here.kill("web-1")
        await there.activate("web-1")
        await there.resume("web-1")
        assert (await there.exec("web-1", ("true",), b"", 10.0)).exit_code == 0
        await here.close()
        await there.close()
