"""From two looks at a VM's devices to rates and latencies; the table of models."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from proto.ioview import CountedBy
from proto.machine import DiskBus, NicModel
from proto.models import DISKS, MODELS, NICS
from services.node.drivers.io import BOUNDS_US, DeviceCount, IoCount, PacketCount, QueueCount, RequestCount
from services.node.io_rates import WINDOW_US_MAX, WINDOW_US_MIN, Look, Looks, percentile, view

S = 1_000_000
GOLDEN = Path(__file__).parent / "golden"


def bins(**at: int) -> tuple[int, ...]:
    """us_50=3: three that took 50 us or less (and more than the bound before)."""
    out = [0] * (len(BOUNDS_US) + 1)
    for name, number in at.items():
        bound = int(name.removeprefix("us_"))
        out[BOUNDS_US.index(bound) if bound else -1] = number
    return tuple(out)


def disk(reads: int, **more: object) -> DeviceCount:
    read = RequestCount("read", reads, reads * 4096, took_ns=reads * 40_000, bins=bins(us_50=reads))
    return replace(DeviceCount("disk1-dev", "virtio-blk-pci", 1, "0000:02:00.0", (), (read,), (), CountedBy.QEMU), **more)


def count(*devices: DeviceCount, pid: int = 7, exits: dict[str, int] | None = None) -> IoCount:
    return IoCount("web-1", 1, pid, "kvm" if exits else "tcg", devices, exits or {})


def test_rates_are_over_the_window() -> None:
    before, now = Look(S, count(disk(100))), Look(3 * S, count(disk(600)))
    seen = view("n1", now, before, {1: "disk1"})
    (device,) = seen.devices
    (read,) = device.requests
    assert (seen.window_ms, device.name, device.ours, device.paravirtual) == (2000, "disk1", True, True)
    assert (read.total, read.per_s, read.mibps, read.mean_us, read.p50_us) == (600, 250.0, 0.977, 40.0, 50)
    assert device.depth == 0.01, "500 requests of 40 us in 2 s"


def test_a_first_look_has_totals_and_no_rates() -> None:
    seen = view("n1", Look(S, count(disk(100))), None, {})
    (read,) = seen.devices[0].requests
    assert (seen.window_ms, read.total, read.per_s, read.p99_us) == (0, 100, 0.0, 50)
    assert seen.devices[0].name == "disk1-dev" and not seen.devices[0].ours, "no slot of its definition"


def test_percentiles_are_of_the_window_where_it_has_any() -> None:
    old = RequestCount("read", 1000, bins=bins(us_10=1000))
    new = RequestCount("read", 1010, bins=bins(us_10=1000, us_5000=10))
    device = disk(0)
    before = Look(S, count(replace(device, requests=(old,))))
    seen = view("n1", Look(2 * S, count(replace(device, requests=(new,)))), before, {})
    assert seen.devices[0].requests[0].p50_us == 5000
    seen = view("n1", Look(3 * S, count(replace(device, requests=(old,)))), before, {})
    assert seen.devices[0].requests[0].p50_us == 10


@given(st.lists(st.integers(0, 50), min_size=len(BOUNDS_US) + 1, max_size=len(BOUNDS_US) + 1), st.integers(1, 100))
def test_a_percentile_is_the_bound_that_so_many_are_not_above(counts: list[int], pct: int) -> None:
    bound, whole = percentile(counts, pct), sum(counts)
    if not whole:
        assert bound == 0
        return
    index = len(BOUNDS_US) if bound < 0 else BOUNDS_US.index(bound)
    assert sum(counts[: index + 1]) * 100 >= whole * pct
    assert sum(counts[:index]) * 100 < whole * pct


def test_a_rings_index_wraps() -> None:
    def ring(index: int) -> DeviceCount:
        return DeviceCount("rng", "virtio-rng-pci", queues=(QueueCount("requests", 8, 1, index),))

    seen = view("n1", Look(2 * S, count(ring(10))), Look(S, count(ring(65_530))), {})
    (queue,) = seen.devices[0].queues
    assert (queue.size, queue.in_flight, queue.completed_per_s) == (8, 1, 16.0)


def test_a_guest_whose_counters_began_anew_has_no_rate() -> None:
    def nic(packets: int, by: CountedBy = CountedBy.GUEST) -> DeviceCount:
        return DeviceCount("nic2-dev", "e1000e", 2, packets=(PacketCount("rx", packets, packets * 100),), counted_by=by)

    seen = view("n1", Look(2 * S, count(nic(5))), Look(S, count(nic(500))), {2: "nic0"})
    assert (seen.devices[0].packets[0].per_s, seen.devices[0].paravirtual) == (0.0, False)
    seen = view("n1", Look(2 * S, count(nic(500, CountedBy.QUEUE))), Look(S, count(nic(5))), {2: "nic0"})
    assert seen.devices[0].packets[0].per_s == 0.0, "somebody else counted before"


def test_exits_are_told_where_they_are_counted_and_else_what_is_known() -> None:
    exits = {"exits": 1000, "mmio_exits": 10}
    before = Look(S, count(disk(0), exits=dict.fromkeys(exits, 0)))
    seen = view("n1", Look(2 * S, count(disk(0), exits=exits)), before, {})
    assert [(e.kind, e.per_s) for e in seen.exits] == [("exits", 1000.0), ("mmio_exits", 10.0)]
    assert "kvm" in seen.intercepted
    seen = view("n1", Look(2 * S, count(disk(150))), Look(S, count(disk(0))), {})
    assert seen.exits == () and "not counted by this accelerator (tcg); 150 requests" in seen.intercepted


def test_looks_are_shared_and_only_one_of_half_a_second_or_more_is_compared_with() -> None:
    looks = Looks()
    at = [Look(n, count(disk(n // 1000))) for n in (S, S + 100, S + WINDOW_US_MIN, S + WINDOW_US_MIN + 1)]
    assert looks.before(at[0]) is None
    assert looks.before(at[1]) is None, "too young, and not kept in the place of the first"
    assert looks.before(at[2]) is at[0]
    assert looks.before(at[3]) is at[0]
    assert looks.before(Look(at[2].at_us + WINDOW_US_MAX + 1, count(disk(1)))) is None, "too long ago"


def test_looks_at_another_process_are_not_compared_with() -> None:
    looks = Looks()
    looks.before(Look(S, count(disk(900))))
    assert looks.before(Look(2 * S, count(disk(1), pid=8))) is None
    assert looks.before(Look(3 * S, count(disk(2), pid=8))) is not None
    looks.only(())
    assert looks.before(Look(4 * S, count(disk(3), pid=8))) is None


def test_every_device_that_qemu_is_given_is_in_the_table() -> None:
    given = set()
    for file in GOLDEN.glob("*.argv"):
        words = file.read_text().split("\n")
        for option, value in pairwise(words):
            if option.strip() == "-device":
                given.add(json.loads(value)["driver"] if value.strip().startswith("{") else value.strip().split(",")[0])
    assert {"virtio-blk-pci", "VGA", "pcie-root-port", "virtio-mem-pci"} <= given
    assert {driver for driver in given if not driver.endswith("-cpu")} - {"virtserialport"} <= set(MODELS)
    assert set(DISKS) == set(DiskBus) and set(NICS) == set(NicModel)
    assert all(model.emulates and model.costs and model.choose for model in MODELS.values())
