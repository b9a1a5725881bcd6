"""What every kind of fence device does, honest or not, with the judge's verdict on it: simulated, Redfish (sushy-tools' emulator),
IPMI (OpenIPMI's), docker (an engine)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from libs.common.clock import SystemClock
from proto.fence import Device, DeviceKind, NoteFence, NoteTest, Ordered, Power, Want
from services.ha.fencing import conduct, judge
from services.ha.fencing.device import (
    BadCertificate,
    DeviceError,
    NoSuchSystem,
    TimedOut,
    Unreachable,
    WrongCredentials,
)
from services.ha.fencing.kinds import Kinds
from services.ha.fencing.simulated import Quirk
from services.ha.fencing.states import Job
from services.ha.fencing.threads import HANGING_MAX
from tests.contract.docker_rig import DockerRig
from tests.contract.fence_rigs import WRONG, Rig, SimulatedRig
from tests.contract.ipmi_rig import IpmiRig
from tests.contract.redfish_rig import RedfishRig, certificate

KINDS: dict[str, Any] = {"simulated": lambda _: SimulatedRig(), "ipmi": IpmiRig, "docker": DockerRig}


@pytest.fixture(scope="module")
def redfish(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedfishRig]:
    rig = RedfishRig(tmp_path_factory.mktemp("redfish"))
    yield rig
    rig.close()


@pytest.fixture(scope="module", params=["redfish", *KINDS])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    if request.param == "redfish":
        yield request.getfixturevalue("redfish")
        return
    rig: Rig = KINDS[request.param](tmp_path_factory.mktemp(request.param))
    yield rig
    rig.close()


@pytest.fixture
def rig(made: Rig) -> Rig:
    made.reset()
    return made


class Bench:
    """What an executor does, step by step. apart_ms: how far the reads are to lie apart."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.kinds = Kinds(rig.machines)
        self.job = Job(
            attempt=1, want=Want.OFF, identity="", apart_ms=judge.APART_MS, epoch=1, boot_id="b", at_us=0, due_us=0
        )

    def asking(self, device: Device | None = None, password: str | None = None, try_s: float = 6.0) -> conduct.Asking:
        device = device or self.rig.device()
        opened = self.kinds.open(device, self.rig.password if password is None else password)
        return conduct.Asking(opened, SystemClock(), device.call_s, try_s)

    async def test(self, device: Device | None = None, password: str | None = None) -> NoteTest:
        return await conduct.test(self.asking(device, password), "n1", 1)

    async def known(self) -> str:
        """The identity, as a test finds it."""
        note = await self.test()
        assert note.error == "" and note.identity, note
        self.job = replace(self.job, identity=note.identity)
        return note.identity

    async def switch(self, want: Want = Want.OFF, try_s: float = 6.0) -> NoteFence:
        self.job = replace(self.job, want=want)
        return await conduct.switch(self.asking(try_s=try_s), "n1", self.job, lambda: True)

    def why_not(self, note: NoteFence) -> str:
        return judge.proves(self.job, note)[1]


async def test_a_machine_is_cut_and_restored(rig: Rig) -> None:
    bench = Bench(rig)
    identity = await bench.known()
    tested = await bench.test()
    assert (tested.power, tested.identity) == (Power.ON, identity) and rig.truth(), "a test switches nothing"

    note = await bench.switch()
    assert bench.why_not(note) == "" and note.ordered == Ordered.TAKEN
    assert not rig.truth()
    assert (await bench.test()).power == Power.OFF

    again = await bench.switch()
    assert bench.why_not(again) == "" and not rig.truth(), "what is off is confirmed likewise"

    note = await bench.switch(Want.ON)
    assert bench.why_not(note) == "" and rig.truth()
    assert (await bench.test()).identity == identity


async def test_what_is_not_wanted_any_more_is_not_ordered(rig: Rig) -> None:
    bench = Bench(rig)
    await bench.known()
    note = await conduct.switch(bench.asking(), "n1", bench.job, lambda: False)
    assert note.ordered == Ordered.NOT_SENT and bench.why_not(note) and rig.truth()


async def test_wrong_credentials_are_told_by_the_test(rig: Rig) -> None:
    bench = Bench(rig)
    device = rig.device()
    if device.kind == DeviceKind.DOCKER:
        pytest.skip("a socket has no password")
    for wrong, password in ((device, WRONG), (replace(device, user="nobody"), rig.password)):
        with pytest.raises(WrongCredentials) as told:
            await bench.asking(wrong, password).device.look()
        assert password not in str(told.value) and told.value.remedy
        note = await bench.test(wrong, password)
        assert "does not take the user" in note.error and note.power == Power.UNKNOWN


async def test_nobody_there(rig: Rig) -> None:
    asking = Bench(rig).asking(rig.elsewhere())
    with pytest.raises((Unreachable, TimedOut, NoSuchSystem)) as told:
        await asking.call("the question for its power", asking.device.look)
    assert told.value.sentence


async def behaves(rig: Rig, quirk: Quirk) -> Bench:
    """The identity is that of the honest device."""
    if quirk not in rig.quirks:
        pytest.skip(f"this kind cannot be {quirk}")
    bench = Bench(rig)
    await bench.known()
    rig.behave(quirk)
    return bench


async def test_a_device_that_answers_for_another_machine_never_has_it_switched(rig: Rig) -> None:
    bench = await behaves(rig, Quirk.STRANGER)
    note = await bench.switch()
    assert note.ordered == Ordered.NOT_SENT and "answers for" in bench.why_not(note)
    assert rig.truth()


async def test_a_device_that_says_off_of_a_node_that_speaks_is_not_believed(rig: Rig) -> None:
    """Nothing in its own words tells a thorough liar; the node does."""
    bench = await behaves(rig, Quirk.LIAR)
    bench.job = replace(bench.job, apart_ms=600)
    note = await bench.switch()
    assert rig.truth()
    spoke_us = note.reads[-1].at_us
    assert "showed itself" in bench.why_not(replace(note, spoke_us=spoke_us))


@pytest.mark.parametrize("quirk", [Quirk.DEAF, Quirk.FLICKER])
async def test_a_device_that_takes_the_order_and_switches_nothing(rig: Rig, quirk: Quirk) -> None:
    bench = await behaves(rig, quirk)
    note = await bench.switch(try_s=0.8)
    assert note.ordered == Ordered.TAKEN and bench.why_not(note) and rig.truth()


async def test_a_device_that_is_silent_confirms_nothing_and_is_ordered_nothing(rig: Rig) -> None:
    bench = await behaves(rig, Quirk.SILENT)
    began = SystemClock().monotonic()
    note = await bench.switch()
    assert note.ordered == Ordered.NOT_SENT and bench.why_not(note) and rig.truth()
    assert SystemClock().monotonic() - began < 10
    assert (await bench.test()).error


async def test_a_device_that_switches_and_then_answers_nothing_confirms_nothing(rig: Rig) -> None:
    bench = await behaves(rig, Quirk.MUTE)
    note = await bench.switch(try_s=1.5)
    assert bench.why_not(note), "the power is off, and nobody knows"
    assert not any(read.power == Power.OFF for read in note.reads)
    if note.ordered == Ordered.TAKEN:
        assert "could not be read" in bench.why_not(note)


async def test_an_order_that_is_not_answered_confirms_nothing_though_the_power_is_read_as_off(rig: Rig) -> None:
    """The next try does, by an order of its own."""
    bench = await behaves(rig, Quirk.LATE)
    note = await bench.switch(try_s=1.5)
    assert note.ordered == Ordered.SILENT and "nothing is known" in bench.why_not(replace(note, error=""))
    assert bench.why_not(note)
    rig.behave(Quirk.NONE)
    again = await bench.switch()
    assert bench.why_not(again) == "" and not rig.truth()


# --- Redfish alone -----------------------------------------------------------------------------------------------------


async def test_a_certificate_that_is_not_trusted_is_told(redfish: RedfishRig, tmp_path: Path) -> None:
    redfish.reset()
    bench = Bench(redfish)
    device = redfish.device()
    other = certificate(tmp_path, "127.0.0.1").read_text()
    for wrong in (replace(device, ca=""), replace(device, ca=other)):
        with pytest.raises(BadCertificate) as told:
            await bench.asking(wrong).device.look()
        assert "--ca" in told.value.remedy
    for right in (device, replace(device, ca="", insecure=True)):
        assert (await bench.test(right)).error == ""


async def test_which_of_several_systems_is_the_node_has_to_be_said(redfish: RedfishRig) -> None:
    redfish.reset()
    bench = Bench(redfish)
    for wrong, word in (("", "has 2 systems"), ("n9", "no system n9")):
        note = await bench.test(replace(redfish.device(), system=wrong))
        assert word in note.error and "--system" in note.remedy


async def test_what_is_no_redfish_is_told(redfish: RedfishRig) -> None:
    class Web(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")
            self.transport.close()

    server = await asyncio.get_running_loop().create_server(Web, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    device = replace(redfish.device(), address=f"http://127.0.0.1:{port}", insecure=True, ca="")
    assert (await Bench(redfish).test(device)).error
    server.close()


async def test_a_device_whose_calls_hang_is_not_given_more_threads(redfish: RedfishRig) -> None:
    redfish.behave(Quirk.SILENT)
    bench = Bench(redfish)
    asking = bench.asking(replace(redfish.device(), call_s=10.0))
    tries = [asyncio.ensure_future(asking.device.look()) for _ in range(HANGING_MAX)]
    await asyncio.sleep(0)
    with pytest.raises(TimedOut, match="hang still"):
        await asking.device.look()
    for one in tries:
        one.cancel()
    redfish.proxy.released.set()
    ended = await asyncio.gather(*tries, return_exceptions=True)
    assert all(isinstance(e, asyncio.CancelledError | DeviceError) for e in ended)
