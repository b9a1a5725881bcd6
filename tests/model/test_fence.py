"""When is a fence device believed, and when is a node's power known to be off?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from libs.common.messages import NodeId
from libs.common.secrets import Secret
from libs.common.testing import Given, Spec
from proto.fence import (
    Device,
    DeviceKind,
    DoubtFence,
    DropFence,
    FenceConfirmed,
    FenceDoubted,
    FenceDropped,
    FenceEvent,
    FenceFailed,
    FenceNode,
    FencePoweredOn,
    FenceRemoved,
    FenceRequested,
    FenceSet,
    FenceTested,
    FenceTestRequested,
    NoteFence,
    NoteTest,
    Ordered,
    OrderFence,
    Power,
    PowerOnNode,
    PowerRead,
    Refusal,
    RemoveFence,
    SetFence,
    TestFence,
    Want,
)
from services.ha.fencing import judge
from services.ha.fencing.model import BACKOFF_US, COOLING_US, FENCE, GRANTOR
from services.ha.fencing.views import FenceViews
from services.node.host.identity import machine_uuid

N1 = NodeId("n1")
NOW = 1_700_000_000_000_000
S = 1_000_000
ME = "uuid 1111"
BMC = Device(kind=DeviceKind.REDFISH, address="https://bmc1", user="asv", password=Secret(ref="0" * 32))
SET = FenceSet(node=N1, device=BMC)
TESTED = FenceTested(node=N1, number=1, ok=True, at_us=NOW, power=Power.ON, identity=ME)
ASKED = FenceRequested(
    node=N1, attempt=1, want=Want.OFF, at_us=NOW, identity=ME, apart_ms=judge.APART_MS, epoch=1, boot_id="b", by=GRANTOR
)
fence = Spec(FENCE)


def ready() -> Given[Any, Any, FenceEvent]:
    return fence.given(SET, TESTED)


def asked() -> Given[Any, Any, FenceEvent]:
    return fence.given(SET, TESTED, ASKED)


def read(after_ms: int, power: Power = Power.OFF, identity: str = ME, error: str = "") -> PowerRead:
    return PowerRead(
        at_us=NOW + after_ms * 1000, after_ms=after_ms, power=power, identity="" if error else identity, error=error
    )


BEFORE = read(-1, Power.ON)
PROOF = (BEFORE, read(100, Power.ON), read(300), read(600))


def note(*reads: PowerRead, ordered: Ordered = Ordered.TAKEN, **more: Any) -> NoteFence:
    return NoteFence(node="n1", attempt=1, now_us=NOW + S, ordered=ordered, reads=reads, **more)


# --- the device and its test -------------------------------------------------------------------------------------------


def test_a_device_is_set_and_tested_before_it_is_believed() -> None:
    fence.given().when(SetFence(node="n1", device=BMC, known=True)).then(SET).twice()
    fence.given(SET).when(FenceNode(node="n1", epoch=1, boot_id="b", now_us=NOW)).refused(Refusal.NOT_TESTED)
    fence.given(SET).when(OrderFence(node="n1", epoch=1, boot_id="b", now_us=NOW)).nothing()
    answer = NoteTest(node="n1", number=1, now_us=NOW, power=Power.ON, identity=ME)
    fence.given(SET).when(answer).then(TESTED).twice()


@pytest.mark.parametrize(
    ("device", "word"),
    [
        (replace(BMC, address="bmc1"), "Redfish"),
        (replace(BMC, address="http://bmc1"), "as it is"),
        (replace(BMC, user=""), "no user"),
        (replace(BMC, password=None), "no password"),
        (replace(BMC, ca="-----BEGIN", insecure=True), "no check"),
        (replace(BMC, kind=DeviceKind.IPMI, address="https://bmc1"), "BMC"),
        (replace(BMC, kind=DeviceKind.IPMI, address="bmc1:99999"), "BMC"),
        (replace(BMC, kind=DeviceKind.IPMI, address="bmc1", system="1"), "neither"),
        (replace(BMC, kind=DeviceKind.IPMI, address="bmc1", cipher=2), "suite 2"),
        (Device(kind=DeviceKind.DOCKER, address="unix:///run/docker.sock"), "which container"),
        (Device(kind=DeviceKind.DOCKER, address="tcp://host:2375", system="n1"), "obeys everybody"),
        (Device(kind=DeviceKind.DOCKER, address="docker", system="n1"), "docker engine"),
        (Device(kind=DeviceKind.SIMULATED, address="a"), "nobody's power"),
    ],
)
def test_a_device_that_is_badly_described_is_refused(device: Device, word: str) -> None:
    outcome = (
        fence.given().when(SetFence(node="n1", device=device, known=True, driver="qemu")).refused(Refusal.BAD_DEVICE)
    )
    assert outcome.refusal is not None and word in outcome.refusal.sentence and outcome.refusal.remedy


@pytest.mark.parametrize(
    "device",
    [
        replace(BMC, address="http://[fe80::1]:8000", insecure=True),
        replace(BMC, kind=DeviceKind.IPMI, address="bmc-1.example:6230"),
        replace(BMC, kind=DeviceKind.IPMI, address="[fe80::1]:623", cipher=17),
        Device(kind=DeviceKind.DOCKER, address="unix:///run/docker.sock", system="asv-n1-1"),
    ],
)
def test_devices_that_are_well_described(device: Device) -> None:
    fence.given().when(SetFence(node="n1", device=device, known=True)).then(FenceSet(node=N1, device=device))


def test_two_nodes_have_not_one_device() -> None:
    fence.given().when(SetFence(node="n1", device=BMC, known=True, twin="n2")).refused(Refusal.SAME_DEVICE)
    answer = NoteTest(node="n1", number=1, now_us=NOW, power=Power.ON, identity=ME, twin="n2")
    (tested,) = fence.given(SET).when(answer).events
    assert isinstance(tested, FenceTested) and not tested.ok and "machine of n2" in tested.sentence
    asked().when(note(*PROOF, twin="n2")).then(failed("the device answers for the machine of n2"))


def test_no_device_of_an_unknown_node() -> None:
    fence.given().when(SetFence(node="n1", device=BMC)).refused(Refusal.NODE_UNKNOWN)
    for command in (TestFence(node="n1"), RemoveFence(node="n1"), FenceNode(node="n1"), PowerOnNode(node="n1")):
        fence.given().when(command).refused(Refusal.NO_DEVICE)


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        (NoteTest(node="n1", number=1, now_us=NOW, error="no answer"), "no answer"),
        (NoteTest(node="n1", number=1, now_us=NOW, power=Power.ON), "names no machine"),
        (NoteTest(node="n1", number=1, now_us=NOW, power=Power.UNKNOWN, identity=ME), "neither on nor off"),
        (NoteTest(node="n1", number=1, now_us=NOW, power=Power.OFF, identity=ME, spoke_us=NOW - S), "it lies"),
    ],
)
def test_a_test_that_fails_is_an_alarm_and_proves_nothing(answer: NoteTest, word: str) -> None:
    (tested,) = fence.given(SET).when(answer).events
    assert isinstance(tested, FenceTested) and not tested.ok and word in tested.sentence and tested.remedy
    fence.given(SET, tested).when(FenceNode(node="n1", epoch=1, boot_id="b", now_us=NOW)).refused(Refusal.NOT_TESTED)
    fence.given(SET, tested).when(OrderFence(node="n1", epoch=1, boot_id="b", now_us=NOW)).nothing()


def test_a_device_that_answers_for_another_machine_later_is_not_believed_until_it_is_set_again() -> None:
    answer = NoteTest(node="n1", number=1, now_us=NOW, power=Power.ON, identity="uuid 2222")
    (tested,) = ready().when(answer).events
    assert isinstance(tested, FenceTested) and not tested.ok and ME in tested.sentence
    fence.given(SET, TESTED, tested, FenceTestRequested(node=N1, number=2)).when(replace(answer, number=2)).then(
        replace(tested, number=2)
    )
    again = fence.given(SET, TESTED, tested, SET)
    again.when(replace(answer, number=2)).then(
        replace(tested, number=2, ok=True, identity="uuid 2222", sentence="", remedy="")
    )


def test_what_a_test_says_again_is_written_once_a_day_and_what_is_new_at_once() -> None:
    later = NoteTest(node="n1", number=1, now_us=NOW + 3600 * S, power=Power.ON, identity=ME)
    ready().when(later).nothing()
    ready().when(replace(later, now_us=NOW + 25 * 3600 * S)).then(replace(TESTED, at_us=NOW + 25 * 3600 * S))
    (lost,) = ready().when(replace(later, error="no answer")).events
    assert isinstance(lost, FenceTested)
    fence.given(SET, TESTED, lost).when(later).then(replace(TESTED, at_us=later.now_us))
    fence.given(SET, TESTED, FenceTestRequested(node=N1, number=2)).when(replace(later, number=2)).then(
        replace(TESTED, number=2, at_us=later.now_us)
    )


def test_an_answer_of_the_device_before_this_one_counts_nothing() -> None:
    fence.given(SET, SET).when(NoteTest(node="n1", number=1, now_us=NOW, power=Power.ON, identity=ME)).nothing()
    gone = fence.given(SET, FenceRemoved(node=N1))
    gone.when(NoteTest(node="n1", number=1, now_us=NOW, power=Power.ON, identity=ME)).nothing()


# --- asking it ---------------------------------------------------------------------------------------------------------


def test_the_grantor_and_an_operator_ask_it_once_at_a_time() -> None:
    ready().when(OrderFence(node="n1", epoch=1, boot_id="b", now_us=NOW)).then(ASKED).twice()
    ready().when(FenceNode(node="n1", epoch=1, boot_id="b", now_us=NOW, reason="hangs")).then(
        replace(ASKED, by="", reason="hangs")
    ).twice()
    asked().when(PowerOnNode(node="n1", now_us=NOW)).refused(Refusal.BUSY)
    asked().when(SetFence(node="n1", device=replace(BMC, user="b"), known=True)).refused(Refusal.BUSY)


def test_of_a_node_that_was_heard_just_now_the_reads_are_to_lie_further_apart() -> None:
    outcome = ready().when(FenceNode(node="n1", epoch=1, boot_id="b", now_us=NOW, spoke_us=NOW - S))
    outcome.then(replace(ASKED, by="", apart_ms=judge.APART_SPOKE_MS))
    soon = fence.given(SET, TESTED, replace(ASKED, apart_ms=judge.APART_SPOKE_MS))
    assert isinstance(soon.when(note(*PROOF)).events[0], FenceFailed)
    assert isinstance(soon.when(note(*PROOF, read(2000))).events[0], FenceConfirmed)


def test_of_a_node_that_writes_its_record_they_are_to_lie_further_apart_still() -> None:
    command = FenceNode(node="n1", epoch=1, boot_id="b", now_us=NOW, spoke_us=NOW - S, moved_us=NOW - S)
    ready().when(command).then(replace(ASKED, by="", apart_ms=judge.STILL_US // 1_000))
    lately = replace(command, moved_us=NOW - 5 * S // 2)
    ready().when(lately).then(replace(ASKED, by="", apart_ms=judge.APART_SPOKE_MS))
    ready().when(replace(lately, spoke_us=0, moved_us=NOW - 3 * S)).then(replace(ASKED, by="", apart_ms=1_000))
    silent = replace(command, spoke_us=NOW - 9 * S, moved_us=NOW - 9 * S)
    ready().when(silent).then(replace(ASKED, by=""))


def test_it_is_not_asked_any_more_for_a_node_that_shows_itself() -> None:
    drop = DropFence(node="n1", now_us=NOW, sentence="n1 is heard again")
    asked().when(drop).then(FenceDropped(node=N1, attempt=1, sentence="n1 is heard again")).twice()
    fence.given(SET, TESTED, replace(ASKED, by="")).when(drop).nothing()
    dropped = fence.given(SET, TESTED, ASKED, FenceDropped(node=N1, attempt=1, sentence="n1 is heard again"))
    dropped.when(note(*PROOF)).nothing()


# --- is it off? --------------------------------------------------------------------------------------------------------


def failed(sentence: str, tries: int = 1) -> FenceFailed:
    return FenceFailed(
        node=N1,
        attempt=1,
        want=Want.OFF,
        tries=tries,
        at_us=NOW + S,
        sentence=sentence,
        next_at_us=NOW + S + BACKOFF_US[0],
    )


def test_ordered_off_and_read_as_off_twice_apart_is_confirmed() -> None:
    (confirmed,) = asked().when(note(*PROOF)).events
    assert isinstance(confirmed, FenceConfirmed)
    assert (confirmed.epoch, confirmed.boot_id) == (1, "b"), "of the lease that it was asked for, and of no later one"
    assert confirmed.reads == PROOF[2:] and confirmed.identity == ME and "2 times within 300 ms" in confirmed.sentence
    off = fence.given(SET, TESTED, ASKED, confirmed)
    assert off.state.off_us == NOW + S and off.state.job is None
    off.when(note(*PROOF)).nothing()


def test_a_node_that_had_no_power_before_is_confirmed_though_the_device_refuses_the_order() -> None:
    was_off = (read(-1), read(100), read(400))
    assert isinstance(asked().when(note(*was_off, ordered=Ordered.NEEDLESS)).events[0], FenceConfirmed)
    assert isinstance(asked().when(note(*PROOF, ordered=Ordered.NEEDLESS)).events[0], FenceFailed)


NOT_OFF = [
    ("silent order", note(*PROOF, ordered=Ordered.SILENT), "nothing is known"),
    ("refused order", note(*PROOF, ordered=Ordered.FAILED), "was not taken"),
    ("not sent", note(*PROOF, ordered=Ordered.NOT_SENT), "was not taken"),
    ("an error beside it", note(*PROOF, error="no answer within 3 s"), "no answer within 3 s"),
    ("no reads", note(), "as nothing"),
    ("one read", note(BEFORE, read(300)), "one read is no proof"),
    ("still on", note(BEFORE, read(300, Power.ON), read(900, Power.ON)), "but as on"),
    ("switching", note(BEFORE, read(300, Power.UNKNOWN), read(900, Power.UNKNOWN)), "but as unknown"),
    ("off, then on", note(*PROOF, read(900, Power.ON)), "but as on"),
    ("off, on, off", note(BEFORE, read(300), read(500, Power.ON), read(900)), "one read is no proof"),
    ("reads time out", note(BEFORE, read(300, error="no answer"), read(900, error="no answer")), "could not be read"),
    ("off, then silence", note(*PROOF, read(900, error="no answer")), "could not be read"),
    ("off, silence, off", note(BEFORE, read(300), read(600, error="no answer"), read(900)), "one read is no proof"),
    ("off only before", note(read(-1), read(-1)), "not read as off"),
    ("too close", note(BEFORE, read(300), read(320)), "within 20 ms only"),
    (
        "another machine",
        note(BEFORE, read(300, identity="uuid 2222"), read(900, identity="uuid 2222")),
        "answers for uuid 2222",
    ),
    (
        "another machine once",
        note(BEFORE, read(300), read(600, identity="uuid 2222"), read(900), read(1200)),
        "answers for uuid 2222",
    ),
    ("no machine", note(BEFORE, read(300, identity=""), read(900, identity="")), "answers for no machine"),
    ("the node speaks", note(*PROOF, spoke_us=NOW + S), "does not hold"),
    ("its record moves", note(*PROOF, moved_us=PROOF[-1].at_us - 2 * S), "2.0 s before the last read"),
]


@pytest.mark.parametrize(
    ("tried", "word"), [(tried, word) for _, tried, word in NOT_OFF], ids=[name for name, _, _ in NOT_OFF]
)
def test_nothing_else_is_a_confirmation(tried: NoteFence, word: str) -> None:
    (event,) = asked().when(tried).events
    assert isinstance(event, FenceFailed) and word in event.sentence and not event.last


def test_words_that_were_on_their_way_when_the_power_went_are_no_lie() -> None:
    spoke_us = PROOF[2].at_us + judge.LATE_US
    assert isinstance(asked().when(note(*PROOF, spoke_us=spoke_us)).events[0], FenceConfirmed)


def test_an_attempt_has_three_tries_and_the_grantor_lets_it_cool() -> None:
    silent = note(BEFORE, ordered=Ordered.SILENT)
    given = asked()
    events: list[FenceEvent] = []
    for _ in range(3):
        events += given.when(silent).events
        given = fence.given(SET, TESTED, ASKED, *events)
    assert [(e.tries, e.last) for e in events if isinstance(e, FenceFailed)] == [(1, False), (2, False), (3, True)]
    assert given.state.job is None
    given.when(silent).nothing()
    given.when(OrderFence(node="n1", epoch=1, boot_id="b", now_us=NOW + 2 * S)).nothing()
    mended = fence.given(SET, TESTED, ASKED, *events, FenceTestRequested(node=N1, number=2), replace(TESTED, number=2))
    mended.when(OrderFence(node="n1", epoch=1, boot_id="b", now_us=NOW + 2 * S)).then(
        replace(ASKED, attempt=2, at_us=NOW + 2 * S)
    )
    later = NOW + S + COOLING_US
    given.when(OrderFence(node="n1", epoch=1, boot_id="b", now_us=later)).then(replace(ASKED, attempt=2, at_us=later))


def test_an_attempt_that_is_over_has_no_late_confirmation() -> None:
    second = fence.given(SET, TESTED, ASKED, FenceDropped(node=N1, attempt=1, sentence="x"), replace(ASKED, attempt=2))
    second.when(note(*PROOF)).nothing()


def test_a_node_is_switched_on_again() -> None:
    off = FenceConfirmed(
        node=N1, attempt=1, epoch=1, boot_id="b", at_us=NOW, ordered=Ordered.TAKEN, identity=ME, reads=PROOF
    )
    on = FenceRequested(node=N1, attempt=2, want=Want.ON, at_us=NOW, identity=ME, apart_ms=judge.APART_MS)
    fence.given(SET, TESTED, ASKED, off).when(PowerOnNode(node="n1", now_us=NOW)).then(on)
    asked_on = fence.given(SET, TESTED, ASKED, off, on)
    seen = replace(note(read(-1), read(200, Power.ON), read(500, Power.ON)), attempt=2)
    asked_on.when(seen).then(FencePoweredOn(node=N1, attempt=2, at_us=NOW + S))
    (event,) = asked_on.when(replace(seen, reads=PROOF)).events
    assert isinstance(event, FenceFailed) and event.want == Want.ON


def test_a_device_whose_word_did_not_hold_proves_nothing_until_somebody_tests_it() -> None:
    doubt = FenceDoubted(node=N1, at_us=NOW, sentence="n1 was heard after")
    ready().when(DoubtFence(node="n1", now_us=NOW, sentence="n1 was heard after")).then(doubt).twice()
    doubted = fence.given(SET, TESTED, doubt)
    doubted.when(OrderFence(node="n1", epoch=1, boot_id="b", now_us=NOW)).nothing()
    hourly = NoteTest(node="n1", number=1, now_us=NOW + 25 * 3600 * S, power=Power.ON, identity=ME)
    good = doubted.when(hourly).events
    fence.given(SET, TESTED, doubt, *good).when(FenceNode(node="n1", epoch=1, boot_id="b", now_us=NOW)).refused(
        Refusal.NOT_TESTED
    )
    asked_for = FenceTestRequested(node=N1, number=2)
    doubted.when(TestFence(node="n1")).then(asked_for)
    again = fence.given(SET, TESTED, doubt, asked_for, replace(TESTED, number=2))
    again.when(OrderFence(node="n1", epoch=1, boot_id="b", now_us=NOW)).then(ASKED)


# --- whose machine is it -----------------------------------------------------------------------------------------------

HOSTS = {"n1": "38947555-7742-3448-3784-823347823834", "n2": "27946b59-9e44-4fa7-8e91-f3527a1ef094"}


@pytest.mark.parametrize(
    ("identity", "twin"),
    [
        ("uuid 27946b59-9e44-4fa7-8e91-f3527a1ef094 serial 7", "n2"),
        ("uuid 596b9427-449e-a74f-8e91-f3527a1ef094", "n2"),
        ("guid 94f01e7a-52f3-918e-a74f-449e596b9427", "n2"),
        ("guid 7a1ef094-f352-8e91-4fa7-9e4427946b59", ""),
        ("uuid 38947555-7742-3448-3784-823347823834", ""),
        ("uuid 11111111-7742-3448-3784-823347823834", ""),
        ("serial 7", ""),
        ("", ""),
    ],
)
def test_a_device_that_answers_for_the_host_of_another_node_is_found_by_that_hosts_own_word(identity: str, twin: str) -> None:
    known = FenceViews(machines=dict(HOSTS))
    assert known.twin_of_machine("n1", identity) == twin


def test_nodes_of_one_host_are_no_strangers_to_its_device() -> None:
    known = FenceViews(machines=dict.fromkeys(HOSTS, HOSTS["n1"]))
    assert known.twin_of_machine("n1", f"uuid {HOSTS['n1']}") == ""


def test_a_host_without_a_name_of_its_own_says_none(tmp_path: Path) -> None:
    assert machine_uuid(tmp_path) == ""
    file = tmp_path / "sys/class/dmi/id/product_uuid"
    file.parent.mkdir(parents=True)
    for said, known in (
        ("27946B59-9E44-4FA7-8E91-F3527A1EF094\n", HOSTS["n2"]),
        ("00000000-0000-0000-0000-000000000000\n", ""),
        ("03000200-0400-0500-0006-000700080009\n", ""),
    ):
        file.write_text(said)
        assert machine_uuid(tmp_path) == known
