"""Fencing as a whole: commands, decider, executor and simulated devices, on an in-memory log."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from libs.common.messages import NodeId
from libs.common.secrets import Keys, Secret
from proto.examples import example
from proto.fence import (
    Device,
    DeviceKind,
    FenceConfirmed,
    FenceDoubted,
    FenceDropped,
    FenceFailed,
    FenceNode,
    FencePoweredOn,
    FenceTested,
    OrderFence,
    PowerOnNode,
    Refusal,
    SetFence,
)
from proto.lease import NodeLost, NodeReturned, NodeTrusted, ProofKind
from proto.nodes import NodeRemoved
from services.ha.fencing import views
from services.ha.fencing.agenda import FAILED_EVERY_S, TEST_EVERY_S, TOLD_S, Due, Told, due
from services.ha.fencing.executor import Executor
from services.ha.fencing.model import FENCE
from services.ha.fencing.simulated import Machine, Quirk
from services.ha.fencing.states import Fence
from tests.contract.fence_desk import MOVED, PASSWORD, Desk, has_lease


@pytest.fixture
async def desk(tmp_path: Any) -> AsyncIterator[Desk]:
    made = Desk(Keys.create(tmp_path / "secrets.key"))
    task = asyncio.ensure_future(made.executor.run())
    yield made
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_device_is_tested_when_it_is_set_and_cuts_its_node_when_that_is_suspected(desk: Desk) -> None:
    machine = await desk.set("n1")
    assert desk.fence().ready and machine.orders == 0
    desk.say(OrderFence(node="n1", epoch=2, boot_id="b", now_us=desk.clock.now_us(), sentence="two paths are silent"))
    await desk.until(lambda: bool(desk.told(FenceConfirmed)))
    (confirmed,) = desk.told(FenceConfirmed)
    assert (confirmed.epoch, confirmed.boot_id) == (2, "b") and len(confirmed.reads) >= 2
    assert not machine.on and machine.orders == 1
    assert desk.ask(PowerOnNode(node="n1")).status == "accepted"
    await desk.until(lambda: bool(desk.told(FencePoweredOn)))
    assert machine.on


async def test_what_is_confirmed_off_is_lost_with_all_that_it_ran(desk: Desk) -> None:
    await desk.set("n1")
    has_lease(desk, "b")
    assert desk.ask(FenceNode(node="n1", reason="it hangs")).status == "accepted"
    await desk.until(lambda: bool(desk.told(NodeLost)))
    (confirmed,), (lost,) = desk.told(FenceConfirmed), desk.told(NodeLost)
    assert (confirmed.epoch, confirmed.boot_id) == (1, "b")
    assert (lost.epoch, lost.proof.kind, lost.proof.everything) == (1, ProofKind.FENCE, True)
    assert "bmc-n1" in lost.proof.device and lost.proof.sentence == confirmed.sentence


async def test_a_confirmation_of_an_earlier_epoch_makes_nothing_lost(desk: Desk) -> None:
    await desk.set("n1")
    has_lease(desk, "b")
    desk.executor.leads = lambda: False
    desk.ask(FenceNode(node="n1"))
    returned = NodeReturned(node=NodeId("n1"), boot_id="c", epoch=2)
    desk.happens("lease-n1", "node_returned", returned)
    desk.executor.leads = lambda: True
    await desk.until(lambda: bool(desk.told(FenceConfirmed)))
    assert not desk.told(NodeLost)


async def test_an_attempt_that_came_to_nothing_makes_nothing_lost(desk: Desk, monkeypatch: Any) -> None:
    monkeypatch.setattr("services.ha.fencing.model.BACKOFF_US", (50_000, 50_000))
    machine = await desk.set("n1")
    has_lease(desk, "b")
    machine.quirk = Quirk.MUTE
    desk.say(OrderFence(node="n1", epoch=1, boot_id="b", now_us=desk.clock.now_us()))
    await desk.until(lambda: bool(desk.told(FenceFailed)) and desk.told(FenceFailed)[-1].last)
    assert not desk.told(NodeLost)


async def test_a_wrong_password_is_told_when_it_is_set_and_the_node_is_not_cut_by_it(desk: Desk) -> None:
    machine = desk.kinds.machines.add("bmc-n1")
    machine.user, machine.password = "asv", PASSWORD
    desk.joins("n1")
    secret = await desk.secrets.put(b"guessed", 0)
    desk.ask(
        SetFence(node="n1", device=Device(kind=DeviceKind.SIMULATED, address="bmc-n1", user="asv", password=secret))
    )
    await desk.until(lambda: bool(desk.told(FenceTested)))
    (tested,) = desk.told(FenceTested)
    assert not tested.ok and "does not take the user asv" in tested.sentence
    assert desk.ask(FenceNode(node="n1")).reason == Refusal.NOT_TESTED
    desk.say(OrderFence(node="n1", epoch=1, boot_id="b", now_us=desk.clock.now_us()))
    assert desk.fence().job is None and machine.orders == 0


async def test_a_password_that_cannot_be_read_is_told(desk: Desk) -> None:
    desk.joins("n1")
    desk.kinds.machines.add("bmc-n1")
    device = Device(kind=DeviceKind.SIMULATED, address="bmc-n1", user="asv", password=Secret(ref="f" * 32))
    desk.ask(SetFence(node="n1", device=device))
    await desk.until(lambda: bool(desk.told(FenceTested)))
    assert "password cannot be read" in desk.told(FenceTested)[0].sentence


async def test_no_password_is_in_the_log(desk: Desk) -> None:
    await desk.set("n1")
    desk.ask(FenceNode(node="n1"))
    await desk.until(lambda: bool(desk.told(FenceConfirmed)))
    assert all(PASSWORD.encode() not in one.data + one.meta for one in desk.log.read_all_now(0, 10_000))


async def test_a_silent_device_fails_an_attempt_after_three_tries_and_nothing_is_confirmed(
    desk: Desk, monkeypatch: Any
) -> None:
    monkeypatch.setattr("services.ha.fencing.model.BACKOFF_US", (50_000, 50_000))
    machine = await desk.set("n1")
    machine.quirk = Quirk.SILENT
    desk.say(OrderFence(node="n1", epoch=1, boot_id="b", now_us=desk.clock.now_us()))
    await desk.until(lambda: len(desk.told(FenceFailed)) == 3)
    assert desk.told(FenceFailed)[-1].last and not desk.told(FenceConfirmed) and machine.on
    assert desk.fence().job is None


async def test_a_device_that_took_the_order_and_then_falls_silent_confirms_nothing(
    desk: Desk, monkeypatch: Any
) -> None:
    monkeypatch.setattr("services.ha.fencing.model.BACKOFF_US", (50_000, 50_000))
    machine = await desk.set("n1")
    machine.quirk = Quirk.MUTE
    desk.say(OrderFence(node="n1", epoch=1, boot_id="b", now_us=desk.clock.now_us()))
    await desk.until(lambda: bool(desk.told(FenceFailed)))
    assert not machine.on and not desk.told(FenceConfirmed), "it is off, and nobody knows"


async def test_a_liar_is_found_out_by_the_node_that_speaks_on(desk: Desk) -> None:
    machine = await desk.set("n1")
    machine.quirk = Quirk.LIAR
    desk.say(OrderFence(node="n1", epoch=1, boot_id="b", now_us=desk.clock.now_us()))
    await desk.until(lambda: bool(desk.told(FenceConfirmed)))  # nothing in its own words tells it
    off_us = desk.fence().off_us
    desk.views.off["n1"] = "b"
    desk.views.spoke["n1"], desk.views.boots["n1"] = off_us + 1_000_000, "b"
    assert not list(views.look(off_us, desk.views)), "that may have been on its way"

    def record(boot: str, s: float, seen: bool = True) -> Callable[[str], views.Shown]:
        at_us = off_us + round(s * 1e6)
        return lambda node: views.Shown(moved_us=at_us, boot_id=boot, lived_us=at_us if seen else 0)

    assert not list(views.look(off_us, desk.views, record("b", 2.5))), "that may have been written before"
    assert not list(views.look(off_us, desk.views, record("another", 4.0))), "it was started anew"
    assert not list(views.look(off_us, desk.views, record("b", 4.0, seen=False))), "nobody looked when it was written"
    assert list(views.look(off_us, desk.views, record("b", 4.0)))
    desk.views.spoke["n1"] = off_us + 2_000_000
    (doubt,) = views.look(off_us, desk.views)
    desk.say(doubt)
    assert len(desk.told(FenceDoubted)) == 1 and not desk.fence().ready
    assert not list(views.look(off_us, desk.views))
    assert desk.ask(FenceNode(node="n1")).reason == Refusal.NOT_TESTED


async def test_a_node_that_speaks_while_it_is_cut_is_not_confirmed_off(desk: Desk) -> None:
    machine = await desk.set("n1")
    machine.quirk = Quirk.LIAR
    desk.executor.try_s = 4.0
    desk.beats("n1")
    desk.ask(FenceNode(node="n1"))
    async with asyncio.timeout(15):
        while not desk.told(FenceFailed):
            desk.beats("n1")
            await asyncio.sleep(0.05)
    assert "showed itself" in desk.told(FenceFailed)[0].sentence and not desk.told(FenceConfirmed)


async def test_a_node_whose_record_moves_while_it_is_cut_is_not_confirmed_off(desk: Desk) -> None:
    """It is cut off from the control plane, and its device lies: the storage tells."""
    machine = await desk.set("n1")
    machine.quirk = Quirk.LIAR
    desk.executor.try_s = 6.0
    MOVED["n1"] = desk.clock.now_us()
    desk.ask(FenceNode(node="n1"))
    async with asyncio.timeout(15):
        while not desk.told(FenceFailed):
            MOVED["n1"] = desk.clock.now_us()
            await asyncio.sleep(0.05)
    MOVED.clear()
    assert "showed itself" in desk.told(FenceFailed)[0].sentence and not desk.told(FenceConfirmed)


async def test_a_device_of_two_nodes_is_refused_and_one_machine_of_two_devices_too(desk: Desk) -> None:
    machine = await desk.set("n1")
    desk.joins("n2")
    device = desk.fence().device
    assert device is not None
    assert desk.ask(SetFence(node="n2", device=device)).reason == Refusal.SAME_DEVICE
    same = Machine(identity=machine.identity)
    await desk.set("n2", same, address="elsewhere")
    tested = desk.fence("n2").tested
    assert tested is not None and not tested.ok and "machine of n1" in tested.sentence
    assert desk.fence("n1").ready


async def test_a_node_that_shows_itself_again_is_not_cut(desk: Desk) -> None:
    machine = await desk.set("n1")
    machine.quirk = Quirk.SILENT
    desk.say(OrderFence(node="n1", epoch=1, boot_id="b", now_us=desk.clock.now_us()))
    desk.happens("lease-n1", "node_trusted", NodeTrusted(node=NodeId("n1"), at_us=1))
    assert len(desk.told(FenceDropped)) == 1 and desk.fence().job is None
    machine.quirk = Quirk.NONE
    await asyncio.sleep(0.3)
    assert machine.on and machine.orders == 0


async def test_a_device_goes_with_its_node(desk: Desk) -> None:
    await desk.set("n1")
    desk.happens("node-n1", "node_removed", NodeRemoved(node=NodeId("n1")))
    assert desk.fence().device is None and desk.views.device("n1") == ""


async def test_a_process_that_does_not_lead_asks_nothing(desk: Desk) -> None:
    machine = await desk.set("n1")
    desk.executor.leads = lambda: False
    desk.ask(FenceNode(node="n1"))
    await asyncio.sleep(0.3)
    assert machine.orders == 0 and desk.fence().job is not None
    desk.executor.leads = lambda: True
    await desk.until(lambda: bool(desk.told(FenceConfirmed)))


async def test_an_attempt_that_a_process_left_open_is_tried_by_the_next(desk: Desk) -> None:
    machine = await desk.set("n1")
    desk.executor.leads = lambda: False
    desk.ask(FenceNode(node="n1"))
    successor = Executor(
        desk.executor.fences, desk.executor.waiting, desk.say, desk.kinds.open, desk.secrets, desk.clock
    )
    task = asyncio.ensure_future(successor.run())
    await desk.until(lambda: bool(desk.told(FenceConfirmed)))
    task.cancel()
    assert not machine.on


def test_when_is_something_to_be_asked() -> None:
    device = Device(kind=DeviceKind.SIMULATED, address="a")
    fresh = Fence(node="n1", device=device, number=1)
    assert due(Fence(node="n1"), Told(), 0, 0) is None
    assert due(fresh, Told(), 0, 0) is Due.TEST
    assert due(fresh, Told(test=1, test_s=0), 0, 1) is None
    assert due(fresh, Told(test=1, test_s=0), 0, TOLD_S) is Due.TEST, "what was told may have been lost"
    tested = FENCE.evolve(fresh, FenceTested(node=NodeId("n1"), number=1, ok=True, at_us=0, identity="m"))
    assert due(tested, Told(test=1, test_s=0), 0, TEST_EVERY_S - 1) is None
    assert due(tested, Told(test=1, test_s=0), 0, TEST_EVERY_S) is Due.TEST
    failed = FENCE.evolve(fresh, FenceTested(node=NodeId("n1"), number=1, ok=False, at_us=0))
    assert due(failed, Told(test=1, test_s=0), 0, FAILED_EVERY_S) is Due.TEST
    (asked,) = FENCE.decide(FenceNode(node="n1", now_us=1000), tested)
    job = FENCE.evolve(tested, asked)
    assert due(job, Told(), 999, 0) is None
    assert due(job, Told(), 1000, 0) is Due.JOB
    assert due(job, Told(job=(1, 0), job_s=0), 1000, 1) is None
    assert due(job, Told(job=(1, 0), job_s=0), 1000, TOLD_S) is Due.JOB


def test_what_views_hold_goes_into_snapshots() -> None:
    import msgspec

    known = views.FenceViews(fences={"n1": Fence(node="n1", device=example(Device))}, spoke={"n1": 1})
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(known), type=views.FenceViews) == known
