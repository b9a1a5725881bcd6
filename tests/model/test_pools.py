"""Pools as objects: rules, what is refused because of them, and what is shown."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given as every
from hypothesis import strategies as st
from msgspec.structs import replace

from libs.common.decider import Refused
from libs.common.messages import NodeId, VmId, encode
from libs.common.testing import Spec
from proto import compute as c
from proto import io
from proto.machine import Disk, DiskFormat, DiskWish
from proto.pools import (
    BEAT_S,
    SILENCE_US_MAX,
    PoolKind,
    PoolNow,
    PoolRoom,
    PoolRules,
    PoolsBeat,
    PoolSet,
    SetPool,
    short,
)
from proto.space import FileNow
from services.gateway.alerts import alerts
from services.gateway.pools import pools
from services.io.hearing import hear
from services.io.model import DEVICES
from services.io.pools import POOL, PoolViews, check, lacking, one_for_all
from services.io.views import Views, enrich
from services.node.pool_watch import FILES_TOLD_MAX, bounded
from tests.contract.gateway_rig import ABILITIES, defined, started
from tests.model.io_story import HERE
from tests.model.test_gateway_tasks import VM, Log

KNOWN = ("default", "local")
N1, N2 = NodeId("n1"), NodeId("n2")


def room(free_mib: int = 500, provisioned_mib: int = 0, over: float = 0.0, keep: int = 1) -> PoolRoom:
    return PoolRoom(
        name="local", id="a", size_mib=1000, free_mib=free_mib, provisioned_mib=provisioned_mib,
        rules=PoolRules(over=over, keep_free_pct=keep),
    )  # fmt: skip


def disk(name: str = "disk0", size_mib: int = 100, pool_id: str = "a", made: bool = False) -> Disk:
    return Disk(
        name=name, pool="local", file=f"a-{name}.qcow2", size_mib=size_mib, format=DiskFormat.QCOW2, serial="s", slot=1,
        pool_id=pool_id, made=made,
    )  # fmt: skip


# --- rules ----------------------------------------------------------------------------------------------------------


def test_rules_are_set_for_pools_that_there_are_and_what_is_not_said_stays() -> None:
    spec = Spec(POOL)
    first = PoolSet(pool="local", rules=PoolRules(over=2.0))
    wish = SetPool(pool="local", over=2.0, known=KNOWN)
    spec.given().when(wish).then(first).twice()
    spec.given(first).when(SetPool(pool="local", keep_free_pct=5, known=KNOWN)).then(
        PoolSet(pool="local", rules=PoolRules(over=2.0, keep_free_pct=5))
    )
    no = spec.given().when(SetPool(pool="fast", over=2.0, known=KNOWN)).refused(io.Refusal.POOL_UNKNOWN).refusal
    assert no is not None and "there are default, local" in no.sentence


@pytest.mark.parametrize(
    ("given", "more_mib", "words"),
    [
        (room(provisioned_mib=1900, over=2.0), 101, "disks of 1900 MiB in it; 101 more make 2001, and 2000 are the most"),
        (room(free_mib=9), 1, "9 of 1000 MiB free; below 10 MiB (1 %)"),
        (room(free_mib=49, keep=5), 1, "below 50 MiB (5 %)"),
        (room(free_mib=0), 1, "0 of 1000 MiB free"),
    ],
)
def test_what_goes_beyond_is_refused_with_numbers_and_a_remedy(given: PoolRoom, more_mib: int, words: str) -> None:
    said, remedy = short(given, more_mib)
    assert words in said and remedy
    with pytest.raises(Refused) as no:
        check([given], "local", more_mib)
    assert (no.value.reason, no.value.sentence) == (io.Refusal.POOL_FULL, said)
    check([given], "other", more_mib)


@pytest.mark.parametrize(
    ("given", "more_mib"),
    [
        (room(provisioned_mib=1900, over=2.0), 100),
        (room(provisioned_mib=10**6), 10**6),
        (room(free_mib=10), 10**6),
        (room(free_mib=0, keep=0), 1),
        (room(free_mib=0), 0),
        (PoolRoom(name="local"), 10**6),
        (PoolRoom(name="local", rules=PoolRules(over=1.5, keep_free_pct=90)), 10**6),
    ],
)
def test_what_fits_or_of_which_nobody_knows_is_taken(given: PoolRoom, more_mib: int) -> None:
    assert short(given, more_mib) == ("", "")


def test_a_grant_counts_only_what_is_still_to_be_made() -> None:
    full = room(free_mib=5)
    assert "pool local" in lacking([full], [disk()], ())
    assert lacking([full], [disk(made=True)], ()) == ""
    assert lacking([full], [disk()], [disk()]) == "", "an earlier try made it"
    limit = room(provisioned_mib=850, over=1.0)
    assert lacking([limit], [disk(), disk("disk1")], ()) != "" and lacking([limit], [disk()], ()) == ""
    assert lacking((), [disk()], ()) == ""


def test_the_asker_of_a_start_hears_that_a_pool_is_full_and_of_a_restart_does_not() -> None:
    wish = io.GrantDevices(
        vm="a",
        node=N1,
        generation=1,
        disks=(DiskWish(size_mib=64, pool="local"),),
        pool_ids={"local": "a"},
        rooms=(room(free_mib=5),),
    )
    denied = Spec(DEVICES).given().when(wish).events
    assert [type(event) for event in denied] == [io.DevicesDenied]
    granted = Spec(DEVICES).given().when(replace(wish, rooms=(room(),))).events
    settled = io.DisksSettled(vm=VmId("a"), generation=1)
    again = Spec(DEVICES).given(*granted, settled, io.DevicesRevoked(vm=VmId("a"), generation=1))
    assert [type(event) for event in again.when(replace(wish, generation=2)).events] == [io.DevicesGranted]


# --- what is known --------------------------------------------------------------------------------------------------


@every(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.lists(st.tuples(st.integers(1, 50), st.sampled_from(["a", "b", ""])), max_size=3))
    )
)
def test_sums_are_those_of_all_disks_whatever_came_and_went(steps: list[tuple[str, list[tuple[int, str]]]]) -> None:
    views, held = PoolViews(), {}
    for vm, sizes in steps:
        held[vm] = [disk(f"disk{n}", size, id) for n, (size, id) in enumerate(sizes)]
        views.has(vm, held[vm])
    every_disk = [one for disks in held.values() for one in disks]
    assert views.provisioned == {
        key: total for key, id in (("a", "a"), ("b", "b"), ("?local", ""))
        if (total := sum(one.size_mib for one in every_disk if one.pool_id == id))
    }  # fmt: skip


def views(*nodes: tuple[NodeId, dict[str, str]]) -> Views:
    made = Views()
    for node, ids in nodes:
        can = replace(ABILITIES, pools=tuple(ids), pool_ids=ids)
        made.apply(HERE, c.NodeReported(node=node, capabilities=can, boot_id="b"))
    return made


def beat(node: str, *pools: PoolNow) -> bytes:
    return encode(PoolsBeat(node, "b", 1, pools))


def test_a_decision_has_the_figures_that_were_told_lately_by_the_node_itself() -> None:
    known = views((N1, {"local": "a"}))
    told = PoolNow(name="local", id="a", size_mib=1000, free_mib=7, files=(FileNow(file="f", used_mib=1),))
    hear("tel.n1.pools", beat("n1", told), 10, known)
    hear("tel.n2.pools", beat("n1", replace(told, free_mib=900)), 10, known)
    hear("tel.n9.pools", beat("n9", told), 10, known)
    assert set(known.pools.seen) == {"n1"}
    known.apply(HERE, PoolSet(pool="local", rules=PoolRules(over=3.0)))
    grant = io.GrantDevices(vm="a", node=N1, generation=1, disks=(DiskWish(size_mib=64, pool="local"),))
    (found,) = enrich(grant, known, 20).rooms
    assert (found.free_mib, found.rules.over, found.id) == (7, 3.0, "a")
    (late,) = enrich(grant, known, 11 + SILENCE_US_MAX).rooms
    assert (late.free_mib, late.size_mib) == (-1, -1)
    assert BEAT_S * 2e6 < SILENCE_US_MAX
    assert enrich(SetPool(pool="local"), known, 20).known == ("local",)


def test_a_vm_that_was_nowhere_yet_is_held_to_a_pool_that_all_share() -> None:
    same, other = {"n1": {"p": "a"}, "n2": {"p": "a"}}, {"n1": {"p": "a"}, "n2": {"p": "b"}}
    assert [one_for_all(ids, "p") for ids in (same, other, {})] == ["n1", "", ""]


def test_a_beat_is_bounded_and_keeps_the_largest_files() -> None:
    files = tuple(FileNow(file=f"f{n}", used_mib=n) for n in range(3 * FILES_TOLD_MAX))
    told = bounded(tuple(PoolNow(name=f"p{n}", files=files) for n in range(100)))
    assert len(told) == 64 and sum(len(pool.files) for pool in told) <= FILES_TOLD_MAX
    assert told[0].files[0].used_mib == 3 * FILES_TOLD_MAX - 1


# --- what is shown --------------------------------------------------------------------------------------------------


def shown(log: Log, now: dict[str, tuple[PoolNow, ...]], sees: Any = lambda project: True) -> list[Any]:
    return pools(log.model, lambda node: now.get(node, ()), sees)


def cluster() -> Log:
    log = Log()
    for node, local in ((N1, "a"), (N2, "b")):
        can = replace(ABILITIES, pools=("default", "local"), pool_ids={"default": "s", "local": local})
        log.add(c.NodeJoined(node=node, key="k"))
        log.add(c.NodeReported(node=node, capabilities=can, boot_id="b"))
    log.add(defined("a"))
    log.add(
        c.VmDevicesNoted(
            vm=VM, generation=1, disks=(disk(size_mib=600), replace(disk("disk1"), pool="default", pool_id="s")), nics=()
        )
    )
    log.add(started("a"))
    log.add(PoolSet(pool="local", rules=PoolRules(over=2.0, keep_free_pct=5)))
    return log


def test_pools_of_one_name_are_told_apart_and_shared_ones_once() -> None:
    now = {
        "n1": (
            PoolNow(name="default", id="s", size_mib=2000, free_mib=1500),
            PoolNow(
                name="local", id="a", size_mib=1000, free_mib=40, disks_mib=55, images_mib=3,
                files=(FileNow(file="a-disk0.qcow2", used_mib=55),),
            ),
        ),
        "n2": (PoolNow(name="local", id="b", error="it is away"),),
    }  # fmt: skip
    log = cluster()
    found = shown(log, now)
    assert [(p.name, p.id, p.kind, p.nodes) for p in found] == [
        ("default", "s", PoolKind.SHARED, ["n1", "n2"]),
        ("local", "a", PoolKind.LOCAL, ["n1"]),
        ("local", "b", PoolKind.LOCAL, ["n2"]),
    ]
    one = found[1]
    assert (one.size_mib, one.free_mib, one.provisioned_mib, one.ratio, one.disks_mib, one.images_mib) == (
        1000,
        40,
        600,
        0.6,
        55,
        3,
    )
    assert [(d.vm, d.disk, d.size_mib, d.used_mib) for d in one.disks] == [("a", "disk0", 600, 55)]
    assert one.rules == PoolRules(over=2.0, keep_free_pct=5)
    assert (found[2].size_mib, found[2].error) == (-1, "it is away")
    said = {(a.kind, a.object): a.sentence for a in alerts(log.model, found, lambda project: True)}
    assert set(said) == {("pool-full", "pool/a"), ("pool-away", "pool/b")}
    assert "40 of 1000 MiB free" in said["pool-full", "pool/a"]


def test_disks_of_other_projects_are_counted_and_not_named() -> None:
    (_, one, _) = shown(cluster(), {}, lambda project: False)
    assert (one.disks, one.others, one.provisioned_mib, one.free_mib) == ([], 1, 600, -1)
