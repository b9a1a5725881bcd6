"""A node's ledger as the API shows it."""

from __future__ import annotations

import msgspec

from libs.common.messages import Event, NodeId, Recorded, VmId
from proto import compute as c
from proto import ladder, memory
from services.gateway.views.ledgers import DECISIONS_MAX, Ledger, LedgersView

N1, A = NodeId("n1"), VmId("a")
SEEN = ladder.HostSeen(at_us=77, total_mib=4096, available_mib=100)
STEP = ladder.LadderStep(rung=ladder.Rung.BALLOON, vm="a", generation=1, from_mib=1024, to_mib=512)


def told(*events: Event, stream: str = "ledger-n1") -> Ledger | None:
    view = LedgersView()
    for position, event in enumerate(events, 1):
        of = "node-n1" if isinstance(event, c.NodeRemoved) else stream
        view.apply(Recorded(position, of, position, "any", 1, 0, b"", b""), event)
    return view.all.get("n1")


CAPACITY = memory.CapacitySet(node=N1, capacity_mib=3000, physical_mib=4096, promised_mib=10, charged_mib=20)
RESERVED = memory.MemoryReserved(
    node=N1, vm=A, generation=1, memory_mib=1200, reserved_mib=600, capacity_mib=3000, charged_mib=700,
    promise=memory.Promise(nominal_mib=1024, reservation_mib=512, overhead_mib=88),
)  # fmt: skip
RELEASED = memory.MemoryReleased(node=N1, vm=A, generation=1, released_mib=1200)


def test_what_is_promised_and_given_back() -> None:
    ledger = told(CAPACITY, RESERVED)
    assert ledger is not None
    assert (ledger.reserved_mib, ledger.charged_mib, ledger.vms["a"].reservation_mib) == (600, 700, 512)
    after = told(CAPACITY, RESERVED, RELEASED)
    assert after is not None and (after.reserved_mib, after.charged_mib, after.vms) == (0, 0, {})


def test_a_host_that_lost_memory_is_short() -> None:
    shrunk = msgspec.structs.replace(CAPACITY, capacity_mib=500, promised_mib=600, charged_mib=700)
    ledger = told(CAPACITY, RESERVED, shrunk)
    assert ledger is not None and ledger.short_mib == 200 and "a" in ledger.vms


def test_the_latest_word_of_the_ladder() -> None:
    climbed = ladder.LadderClimbed(
        node=N1, level=ladder.Level.SOFT, seen=SEEN, min_free_mib=200, short_mib=100, covered_mib=100, steps=(STEP,)
    )
    ledger = told(CAPACITY, *[climbed] * 9)
    assert ledger is not None and len(ledger.taken) == DECISIONS_MAX
    assert (ledger.taken[-1].at_us, ledger.taken[-1].level) == (77, "soft")
    assert "a: 512 MiB taken by its balloon (1024 to 512)" in ledger.taken[-1].sentence


def test_a_removed_node_and_other_streams() -> None:
    assert told(CAPACITY, c.NodeRemoved(node=N1)) is None
    assert told(RESERVED, stream="vm-a") is None
