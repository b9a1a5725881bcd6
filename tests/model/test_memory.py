"""The ledger of a node's memory: it never promises more than there is."""

from __future__ import annotations

import msgspec
import pytest
from msgspec.structs import replace

from libs.common.messages import NodeId, Recorded, VmId
from libs.common.testing import Spec
from libs.memory.areas import sized
from libs.memory.promise import charged_mib, guaranteed_mib, promise_of
from proto.compute import GoneCause, NodeRemoved, NodeReported, VmStartFailed, VmStopped
from proto.ladder import MemoryPolicy
from proto.machine import Allotment, Priority
from proto.memory import (
    Area,
    Broken,
    CapacityCause,
    CapacityExceeded,
    CapacitySet,
    LedgerEvent,
    Limit,
    MemoryDenied,
    MemoryOrderReported,
    MemoryReleased,
    MemoryReserved,
    NoteHost,
    Promise,
    Purpose,
    Refusal,
    ReleaseMemory,
    ReportMemory,
    ReserveMemory,
    ResizeMemory,
    SetAreas,
    SetFailoverShare,
    SetMemoryPolicy,
)
from services.memory.model import LEDGER, Ledger, Unset
from services.memory.react import react
from tests.model.compute_story import REQUESTED
from tests.model.test_nodes import CAN

N1, A, B = NodeId("n1"), VmId("a"), VmId("b")
AREAS = (Area(name="host", min_mib=1000),)
HOST = CapacitySet(node=N1, capacity_mib=1000, physical_mib=2000, areas=AREAS, areas_set=True)
"""a host of 2000 MiB, of which 1000 may be promised"""
HELD = Promise(nominal_mib=600, reservation_mib=500, overhead_mib=100)
RESERVE = ReserveMemory(node="n1", vm="a", generation=2, promise=HELD)
RESERVED = MemoryReserved(
    node=N1, vm=A, generation=2, memory_mib=700, reserved_mib=600, charged_mib=400, capacity_mib=1000, promise=HELD
)
RELEASED = MemoryReleased(node=N1, vm=A, generation=2, released_mib=700)
ledger = Spec(LEDGER)
HERE = Recorded(1, "vm-a", 1, "t", 1, 0, b"", b"")


def asks(vm: str, nominal: int, own: int, priority: Priority = Priority.NORMAL, **more: object) -> ReserveMemory:
    promise = Promise(nominal_mib=nominal, reservation_mib=own, priority=priority)
    return ReserveMemory(node="n1", vm=vm, generation=1, promise=promise, **more)  # type: ignore[arg-type]


def denied(*events: LedgerEvent, when: ReserveMemory) -> MemoryDenied:
    (event,) = ledger.given(*events).when(when).events
    assert isinstance(event, MemoryDenied), event
    return event


def test_a_reservation_in_full() -> None:
    ledger.given(HOST).when(RESERVE).then(RESERVED).twice()
    ledger.given(HOST, RESERVED).when(ReleaseMemory(node="n1", vm="a", generation=2)).then(RELEASED).twice()
    ledger.given(HOST, RESERVED, RELEASED).is_state(
        Ledger(capacity_mib=1000, physical_mib=2000, areas=AREAS, areas_set=True)
    )


def test_by_class_more_or_less_of_a_vms_memory_is_its_own() -> None:
    own = {p: promise_of(1001, p).reservation_mib for p in Priority}
    assert own == {"critical": 1001, "important": 751, "normal": 501, "best-effort": 251}
    assert promise_of(1000, Priority.NORMAL, Allotment(memory_reserved_mib=900)).reservation_mib == 900
    assert promise_of(1000, Priority.CRITICAL, Allotment(memory_reserved_mib=1)).reservation_mib == 1000
    assert guaranteed_mib(promise_of(640, Priority.NORMAL)) == 320 + 96 + 10


def test_the_ratio_of_a_class_is_rounded_once() -> None:
    vms = [Promise(nominal_mib=100, reservation_mib=0)] * 3 + [promise_of(100, Priority.CRITICAL)]
    assert charged_mib(vms, MemoryPolicy()) == 200 + 100
    assert charged_mib(vms, MemoryPolicy(class_ratio_pct={"normal": 200})) == 150 + 100


def test_what_breaks_the_guarantee_is_denied_with_the_numbers() -> None:
    broke = Broken(limit=Limit.GUARANTEE, promised_mib=600, asked_mib=401, limit_mib=1000)
    event = denied(HOST, RESERVED, when=asks("b", 401, 401))
    assert event.broke == (broke,)
    assert event.sentence == "n1 does not hold it: 600 + 401 of 1000 MiB of reservations and QEMU's own"
    (fits,) = ledger.given(HOST, RESERVED).when(asks("b", 400, 400)).events
    assert isinstance(fits, MemoryReserved) and fits.reserved_mib == 1000


def test_what_breaks_the_ratio_is_denied_though_the_guarantee_holds() -> None:
    event = denied(HOST, RESERVED, when=asks("b", 901, 1))
    assert event.broke == (Broken(limit=Limit.RATIO, promised_mib=400, asked_mib=601, limit_mib=1000),)
    (fits,) = ledger.given(HOST, RESERVED).when(asks("b", 900, 1)).events
    assert isinstance(fits, MemoryReserved) and fits.charged_mib == 1000


def test_a_class_that_was_given_an_area_stays_in_it() -> None:
    areas = (*AREAS, Area(name="vms-best-effort", max_mib=100))
    host = replace(HOST, areas=areas)
    event = denied(host, when=asks("b", 200, 101, Priority.BEST_EFFORT))
    assert event.broke == (Broken(limit=Limit.AREA, promised_mib=0, asked_mib=101, limit_mib=100),)
    assert isinstance(ledger.given(host).when(asks("b", 200, 101)).events[0], MemoryReserved)


def test_the_failover_share_is_for_failover_restarts() -> None:
    host = replace(HOST, share_mib=300)
    event = denied(host, RESERVED, when=asks("b", 101, 101))
    assert event.capacity_mib == 700
    (start,) = ledger.given(host, RESERVED).when(asks("b", 400, 400, purpose=Purpose.FAILOVER)).events
    assert isinstance(start, MemoryReserved) and start.capacity_mib == 1000
    denied(host, RESERVED, when=asks("b", 401, 401, purpose=Purpose.FAILOVER))
    denied(host, RESERVED, when=asks("b", 101, 101, purpose=Purpose.MIGRATION))


def test_a_forecast_that_fills_the_node_keeps_others_away_but_for_critical_ones_and_failover() -> None:
    event = denied(HOST, when=asks("b", 300, 150, forecast_mib=801))
    assert event.broke == (Broken(limit=Limit.FORECAST, promised_mib=801, asked_mib=200, limit_mib=1000),)
    for fits in (
        asks("b", 300, 150, forecast_mib=800),
        asks("b", 300, 300, Priority.CRITICAL, forecast_mib=801),
        asks("b", 300, 150, purpose=Purpose.FAILOVER, forecast_mib=801),
    ):
        assert isinstance(ledger.given(HOST).when(fits).events[0], MemoryReserved)


def test_a_node_without_a_report_holds_nothing_but_what_was_found() -> None:
    denied(when=RESERVE)
    ledger.given().when(ReleaseMemory(node="n1", vm="a", generation=9)).nothing()
    (found,) = ledger.given().when(replace(RESERVE, purpose=Purpose.FOUND)).events
    assert isinstance(ledger.given(found).state, Ledger)


def test_a_newer_generation_takes_the_place_of_the_older() -> None:
    larger = replace(HELD, reservation_mib=600)
    newer = replace(RESERVE, generation=3, promise=larger)
    taken = replace(RESERVED, generation=3, promise=larger, reserved_mib=700)
    ledger.given(HOST, RESERVED).when(newer).then(taken).twice()
    ledger.given(HOST, RESERVED, taken).when(RESERVE).nothing()
    ledger.given(HOST, RESERVED, taken).when(ReleaseMemory(node="n1", vm="a", generation=2)).nothing()


def test_a_release_takes_older_generations_along() -> None:
    ledger.given(HOST, RESERVED).when(ReleaseMemory(node="n1", vm="a", generation=7)).then(RELEASED)
    ledger.given(HOST, RESERVED).when(ReleaseMemory(node="n1", vm="a", generation=1)).nothing()
    ledger.given(HOST, RESERVED).when(ReleaseMemory(node="n1", vm="b", generation=7)).nothing()


def test_a_hot_add_is_held_to_the_limits_and_a_removal_never_is() -> None:
    def resize(nominal: int, own: int) -> ResizeMemory:
        promise = Promise(nominal_mib=nominal, reservation_mib=own, overhead_mib=100)
        return ResizeMemory(node="n1", vm="a", generation=2, promise=promise)

    (more,) = ledger.given(HOST, RESERVED).when(resize(900, 900)).twice().events
    assert isinstance(more, MemoryReserved) and (more.reserved_mib, more.purpose) == (1000, Purpose.HOT_ADD)
    (too_much,) = ledger.given(HOST, RESERVED).when(resize(901, 901)).events
    assert isinstance(too_much, MemoryDenied)
    shrunk = replace(HOST, capacity_mib=100)
    (less,) = ledger.given(HOST, RESERVED, shrunk).when(resize(500, 400)).events
    assert isinstance(less, MemoryReserved)
    ledger.given(HOST, RESERVED).when(replace(resize(900, 900), generation=1)).nothing()
    ledger.given(HOST).when(resize(900, 900)).nothing()


def test_a_host_that_loses_memory_keeps_what_it_promised_and_promises_nothing_new() -> None:
    host = NoteHost(node="n1", memory_mib=1500)
    after = replace(HOST, physical_mib=1500, capacity_mib=500, promised_mib=600, charged_mib=400)
    exceeded = CapacityExceeded(
        node=N1, before_mib=1000, capacity_mib=500, promised_mib=600, charged_mib=400, short_mib=100, would_go=(A,),
    )
    ledger.given(HOST, RESERVED).when(host).then(after, exceeded).twice()
    denied(HOST, RESERVED, after, exceeded, when=asks("b", 1, 1))
    ledger.given(HOST).when(host).then(replace(after, promised_mib=0, charged_mib=0))


def test_areas_follow_from_the_host_until_they_are_set() -> None:
    (event,) = ledger.given().when(NoteHost(node="n1", memory_mib=16_384)).twice().events
    assert isinstance(event, CapacitySet) and event.capacity_mib == 16_384 - 1024
    assert {a.name: a.min_mib for a in event.areas} == {"host": 512, "agent": 192, "storage": 192, "network": 128}
    assert all(a.max_mib > a.high_mib > a.min_mib for a in event.areas if a.name != "host")
    (back,) = ledger.given(HOST).when(SetAreas(node="n1")).twice().events
    assert isinstance(back, CapacitySet) and back.areas == sized(2000) and not back.areas_set
    assert sized(0) == ()


@pytest.mark.parametrize(
    ("areas", "why"),
    [
        ((Area(name="agent", min_mib=10),), "host itself"),
        ((Area(name="host", min_mib=2000),), "the host has 2000"),
        ((Area(name="host", min_mib=10), Area(name="host", min_mib=10)), "2 times"),
        ((Area(name="host", min_mib=10, max_mib=5),), "do not rise"),
        ((Area(name="host", min_mib=-1),), "below 0"),
        ((Area(name="host", min_mib=10), Area(name="vms-noble", max_mib=5)), "no class"),
        ((Area(name="host", min_mib=10), Area(name="vms-normal", min_mib=5)), "of its own"),
        ((Area(name="host", min_mib=10), Area(name="kitchen")), "no module"),
        ((Area(name="host", min_mib=10, max_mib=50),), "cannot be held"),
        ((Area(name="host", min_mib=10), Area(name="swap", min_mib=5)), "follows from the zram device"),
        ((Area(name="host", min_mib=10), Area(name="control-plane", min_mib=5)), "no control plane runs"),
    ],
)
def test_areas_that_make_no_sense_are_refused(areas: tuple[Area, ...], why: str) -> None:
    outcome = ledger.given(HOST).when(SetAreas(node="n1", areas=areas)).refused(Refusal.BAD_AREAS)
    assert outcome.refusal is not None and why in outcome.refusal.sentence


def test_the_control_plane_is_counted_where_it_runs() -> None:
    here = NoteHost(node="n1", memory_mib=16_384, control_plane=True)
    (event,) = ledger.given().when(here).twice().events
    assert isinstance(event, CapacitySet) and event.control_plane
    assert event.capacity_mib == 16_384 - 1024 - 256 - 128
    assert "control-plane" in {a.name for a in event.areas}
    without = SetAreas(node="n1", areas=(Area(name="host", min_mib=10),))
    outcome = ledger.given(event).when(without).refused(Refusal.BAD_AREAS)
    assert outcome.refusal is not None and "has no area" in outcome.refusal.sentence
    with_it = replace(without, areas=(*without.areas, Area(name="control-plane", min_mib=500, max_mib=900)))
    (own,) = ledger.given(event).when(with_it).events
    assert isinstance(own, CapacitySet) and own.capacity_mib == 16_384 - 510
    (gone,) = ledger.given(event, own).when(replace(here, control_plane=False)).events
    assert isinstance(gone, CapacitySet) and not gone.areas_set and gone.areas == sized(16_384), "it runs elsewhere now"


def test_what_zram_may_take_is_an_area_that_nobody_sets() -> None:
    """And swap itself counts in no limit: it is no memory that could be promised."""
    zram = NoteHost(node="n1", memory_mib=16_384, swap_mib=4096, swap_memory_mib=1366)
    (event,) = ledger.given().when(zram).twice().events
    assert isinstance(event, CapacitySet) and event.capacity_mib == 16_384 - 1024 - 1366
    by_hand = SetAreas(node="n1", areas=(Area(name="host", min_mib=1000),))
    (own,) = ledger.given(event).when(by_hand).events
    assert isinstance(own, CapacitySet) and own.capacity_mib == 16_384 - 1000 - 1366
    assert own.areas == (Area(name="host", min_mib=1000), Area(name="swap", min_mib=1366))
    (off,) = ledger.given(event, own).when(replace(zram, swap_mib=0, swap_memory_mib=0)).events
    assert isinstance(off, CapacitySet) and off.areas == by_hand.areas and off.areas_set
    (disk,) = ledger.given().when(replace(zram, swap_memory_mib=0)).events
    (none,) = ledger.given().when(NoteHost(node="n1", memory_mib=16_384)).events
    assert isinstance(disk, CapacitySet) and isinstance(none, CapacitySet) and disk.capacity_mib == none.capacity_mib


def test_what_a_person_decides_is_refused_where_it_breaks_promises() -> None:
    given = ledger.given(HOST, RESERVED)
    share = given.when(SetFailoverShare(node="n1", share_mib=401)).refused(Refusal.BREAKS_PROMISES)
    assert share.refusal is not None
    assert "600 of 599 MiB" in share.refusal.sentence and "a (normal, 500 of 600" in share.refusal.sentence
    more = ledger.given(HOST).when(SetFailoverShare(node="n1", share_mib=1001)).refused(Refusal.BREAKS_PROMISES)
    assert more.refusal is not None and "1000 MiB beside its areas, a failover share of 1001" in more.refusal.sentence
    (grown,) = given.when(SetFailoverShare(node="n1", share_mib=400)).twice().events
    assert isinstance(grown, CapacitySet) and grown.cause is CapacityCause.SHARE
    given.when(SetAreas(node="n1", areas=(Area(name="host", min_mib=1401),))).refused(Refusal.BREAKS_PROMISES)
    tight = replace(HOST, share_mib=400)
    lower = SetMemoryPolicy(node="n1", policy=MemoryPolicy(ratio_pct=100))
    assert ledger.given(tight, RESERVED).when(lower).twice().events, "600 of 600 still fits"
    nominal = replace(RESERVED, promise=replace(HELD, nominal_mib=601))
    ledger.given(tight, nominal).when(lower).refused(Refusal.BREAKS_PROMISES)


def test_policies_that_make_no_sense_are_refused() -> None:
    for name in ("critical", "noble"):
        policy = MemoryPolicy(class_ratio_pct={name: 150})
        ledger.given(HOST).when(SetMemoryPolicy(node="n1", policy=policy)).refused(Refusal.BAD_POLICY)
    ledger.given().when(SetFailoverShare(node="n1", share_mib=1)).refused(Refusal.NO_LEDGER)


def test_what_makes_a_broken_limit_no_worse_is_not_refused() -> None:
    shrunk = replace(HOST, capacity_mib=500, physical_mib=1500, share_mib=200)
    given = ledger.given(HOST, RESERVED, shrunk)
    assert given.when(SetFailoverShare(node="n1", share_mib=100)).events
    given.when(SetFailoverShare(node="n1", share_mib=201)).refused(Refusal.BREAKS_PROMISES)


def test_what_a_node_could_not_apply_is_kept_once() -> None:
    report = ReportMemory(node=N1, order_version=7, faults=("memory.min is not there",))
    said = MemoryOrderReported(node=N1, order_version=7, faults=report.faults)
    ledger.given(HOST).when(report).then(said).twice()
    ledger.given(HOST, said).when(replace(report, faults=())).then(replace(said, faults=()))
    ledger.given().when(report).nothing()


def test_what_others_say_becomes_wishes_of_our_own() -> None:
    def wishes(event: object) -> list[object]:
        return list(react(event, HERE, None))

    promise = promise_of(256, REQUESTED.priority)
    assert wishes(REQUESTED) == [ReserveMemory(node="n1", vm="a", generation=1, promise=promise)]
    release = ReleaseMemory(node="n1", vm="a", generation=1)
    assert wishes(VmStartFailed(vm=A, node=N1, generation=1, sentence="s")) == [release]
    assert wishes(VmStopped(vm=A, node=N1, generation=1, cause=GoneCause.CRASHED)) == [release]
    assert wishes(NodeReported(node=N1, capabilities=CAN, boot_id="b")) == [NoteHost(node="n1", memory_mib=4096)]
    assert wishes(NodeRemoved(node=N1)) == [NoteHost(node="n1", memory_mib=0)]
    assert wishes(HOST) == []


def test_an_unset_ledger_survives_the_wire() -> None:
    state = LEDGER.fold((HOST, RESERVED))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(state), type=LEDGER.state) == state
    assert LEDGER.fold(()) == Unset()
