"""The way of a recovery from stream to stream: what io and compute make of what the other has decided, and where it ends."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from libs.common.messages import Event, NodeId, encode
from proto.compute import (
    NodeJoined,
    NodeReported,
    PrepareRecovery,
    StartVm,
    VmDefined,
    VmDeleted,
    VmDevicesNoted,
    VmRecoveryPrepared,
    VmRecoveryRefused,
    VmRecoveryWaits,
    VmStrangerSeen,
)
from proto.compute import Refusal as ComputeRefusal
from proto.devices import Change, ChangeKind, Known, VmPhase
from proto.hardware import ordered
from proto.images import MakeImage, TemplateKnown
from proto.io import (
    DevicesChanged,
    DevicesRemoved,
    DisksHome,
    DisksNotRecovered,
    DisksRecovered,
    EndKind,
    EndRecovery,
    RecoverDisks,
    RecoveryEnded,
    Refusal,
)
from proto.machine import DiskWish
from proto.memory import CapacitySet
from proto.migration import MigrateVm
from proto.placement import Filter, Placement, Rejected, removed_by
from proto.pools import PoolKind, PoolNow, PoolsBeat
from services.compute import react as compute_react
from services.compute.choosing import choose
from services.compute.enriching import enrich as compute_enrich
from services.compute.model import VM
from services.compute.views import Views as ComputeViews
from services.io.hearing import hear
from services.io.react import react
from services.io.views import enrich
from tests.model import test_reach
from tests.model.compute_story import DEFINED, HISTORIES, LAUNCHED, N1, NICS, RUNNING, choice, vm
from tests.model.io_story import HERE, IMPORTED, A, images, seen
from tests.model.recovery_story import ANEW, ASKED, DEFINITION, ORIGIN, STOPPED, X, made, recovered, running
from tests.model.test_nodes import CAN
from tests.model.test_reach import NOW_US

PREPARE = PrepareRecovery(vm="x", source="a", recovery="r1-9", definition=DEFINITION)
BACK = replace(PREPARE, vm="a", lose="a")
PREPARED = VmRecoveryPrepared(vm=X, source=A, recovery="r1-9")
RECOVERED = DisksRecovered(vm=X, source=A, recovery="r1-9", node="n2")
ENDED = RecoveryEnded(vm=A, target=X, recovery="r1-9", end=EndKind.INDEPENDENT)


# --- compute: it is there, and stopped ------------------------------------------------------------------------------------


def test_where_there_is_none_it_is_defined_as_it_was() -> None:
    defined, prepared = vm.given().when(PREPARE).twice().events
    assert isinstance(defined, VmDefined) and prepared == PREPARED
    assert (defined.disks, defined.nics, defined.priority) == (DEFINITION.disks, DEFINITION.nics, DEFINITION.priority)
    assert defined.shape == replace(DEFINITION.shape, uuid=defined.shape.uuid)
    assert defined.shape.uuid != DEFINITION.shape.uuid, "under another name it is another machine"
    again, _ = vm.given().when(replace(PREPARE, vm="a")).events
    assert isinstance(again, VmDefined) and again.shape == DEFINITION.shape, "under its own it is the same"


def test_in_place_it_has_to_be_stopped_and_named() -> None:
    prepared = VmRecoveryPrepared(vm=A, source=A, recovery="r1-9")
    vm.given(DEFINED).when(BACK).then(prepared).twice()
    vm.given(DEFINED, prepared).when(replace(BACK, recovery="r1-10")).then(replace(prepared, recovery="r1-10"))
    assert VM.fold((DEFINED, prepared, VmDeleted(vm=A, node=N1))) == replace(VM.initial, version=3)
    for name, history in HISTORIES.items():
        if name in ("absent", "deleted", "stopped", "stopped again"):
            continue
        (said,) = vm.given(*history).when(BACK).events
        assert isinstance(said, VmRecoveryRefused) and VM.fold(history).word in said.sentence, name


@pytest.mark.parametrize(
    ("given", "command"),
    [
        ((DEFINED,), replace(BACK, lose="")),
        ((DEFINED,), replace(BACK, lose="b")),
        ((DEFINED,), replace(BACK, unheard=("n2",))),
        ((DEFINED,), replace(BACK, source="b")),
        ((VmStrangerSeen(vm=A, node=N1, generation=3),), BACK),
    ],
    ids=["not named", "another named", "a node may run it", "the name was taken", "a stranger"],
)
def test_refusals_are_in_the_log(given: Any, command: PrepareRecovery) -> None:
    state = vm.given(*given)
    (said,) = state.when(command).events
    assert isinstance(said, VmRecoveryRefused) and said.sentence and said.recovery == "r1-9"


def test_compute_knows_who_has_not_been_heard() -> None:
    views = ComputeViews()
    assert compute_enrich(replace(BACK, incarnation=2), views, 0).unheard == ("any node",)


def test_compute_goes_on_where_io_has_decided() -> None:
    def wishes(event: Event) -> list[object]:
        return list(compute_react.react(event, HERE, ComputeViews()))

    assert wishes(ASKED) == [PREPARE]
    assert wishes(replace(ASKED, target=A, lose="a")) == [BACK]
    assert wishes(RECOVERED) == [StartVm(vm="x", node="n2", source="a", recovery="r1-9")]
    assert wishes(replace(RECOVERED, start=False)) == []


def test_a_start_that_is_refused_is_in_the_log() -> None:
    """Nobody hears a refusal of what a reaction asks for; a person does."""
    full = Placement(policy="p", rejected=(Rejected(node=N1, filter=Filter.CPU_LIMIT, needed=1),))
    by_hand = StartVm(vm="a", choice=full)
    vm.given(DEFINED).when(by_hand).refused(ComputeRefusal.NO_NODE_FITS)
    (said,) = vm.given(DEFINED).when(replace(by_hand, source="a", recovery="r1-9")).events
    assert isinstance(said, VmRecoveryWaits) and (said.source, said.recovery) == ("a", "r1-9")
    assert "short of vCPUs: n1" in said.sentence and said.remedy
    assert VM.fold((DEFINED, said)) == replace(VM.fold((DEFINED,)), version=2), "it stays as it was"


# --- io: put on the backup, and let go of it ----------------------------------------------------------------------------------


def test_io_puts_it_on_what_was_asked_for() -> None:
    views = seen(ASKED)
    (command,) = react(PREPARED, HERE, views)
    assert command == RecoverDisks(
        vm="x", source="a", recovery="r1-9", disks=ASKED.disks, definition=DEFINITION, node="n2", pool="fast", isolated=True
    )
    assert not react(replace(PREPARED, recovery="r1-8"), HERE, views)
    views.apply(HERE, ENDED)
    assert not react(PREPARED, HERE, views) and not views.recoveries.asked


def test_it_is_known_whether_the_vm_is_there() -> None:
    told = enrich(ANEW, seen(replace(DEFINED, vm=X)), 0)
    assert told.known.phase is VmPhase.STOPPED
    assert enrich(ANEW, seen(), 0).known == Known()
    views = seen(replace(DEFINED, vm=X))
    rbd = PoolsBeat("n2", "b", 1, (PoolNow(name="default", id="w", size_mib=10, free_mib=5, kind=PoolKind.RBD),))
    hear("tel.n2.pools", encode(rbd), 0, views)
    (room,) = enrich(replace(ANEW, node="n2"), views, 0).known.rooms
    assert (room.name, room.kind) == ("default", PoolKind.RBD)


def test_every_end_lets_the_backup_go() -> None:
    views = seen(ASKED)

    def ends(event: Event) -> list[tuple[str, EndKind]]:
        views.apply(HERE, event)
        found = react(event, HERE, views)
        assert all(isinstance(one, EndRecovery) and one.vm == "a" for one in found)
        return [(one.recovery, one.end) for one in found if isinstance(one, EndRecovery)]

    refused, gone = EndKind.REFUSED, EndKind.GONE
    assert ends(VmRecoveryRefused(vm=X, source=A, recovery="r1-9", sentence="s")) == [("r1-9", refused)]
    assert ends(DisksNotRecovered(vm=X, source=A, recovery="r1-9", sentence="s")) == [("r1-9", refused)]
    assert ends(DevicesRemoved(vm=X)) == [], "of an earlier one of that name"
    assert ends(RECOVERED) == []
    assert ends(DisksHome(vm=X, source=A, recovery="r1-9")) == [("r1-9", EndKind.INDEPENDENT)]
    assert ends(DisksHome(vm=X, source=A, recovery="")) == [("r1-9", EndKind.INDEPENDENT)], "the log had lost which it was"
    views.apply(HERE, replace(ASKED, recovery="r1-12"))
    assert ends(replace(RECOVERED, recovery="r1-12")) == [("r1-9", gone)], "recovered again"
    views.apply(HERE, ENDED)
    assert ends(DevicesRemoved(vm=X)) == [("r1-12", gone)]


def test_an_image_stays_while_what_stood_on_it_may_be_wanted_again() -> None:
    events = (IMPORTED, replace(DEFINED, vm=A), *recovered(*STOPPED))
    views = seen(*events)
    assert views.used_by("tiny") == ("a",)
    views.apply(HERE, DisksHome(vm=A, source=A, recovery="r1-9"))
    assert views.used_by("tiny") == ()


def test_no_image_is_made_of_a_disk_that_is_not_all_its_own() -> None:
    known = TemplateKnown(defined=True, disks=made(running(*recovered(*STOPPED))).disks)
    images.given().when(MakeImage(image="new", vm="a", known=known)).refused(Refusal.BUSY)


# --- where it starts, and that it stays there -----------------------------------------------------------------------------------


def on_backup(pool_id: str) -> DevicesChanged:
    origin = replace(ORIGIN, pool_id=pool_id)
    disks = tuple(
        replace(d, layers=tuple(replace(one, origin=origin) for one in d.layers)) for d in made(recovered(*STOPPED)).disks
    )
    change = Change(kind=ChangeKind.RECOVER, name="", slot=-1, recovery="r1-9")
    return DevicesChanged(vm=A, node=N1, generation=0, disks=disks, nics=(), leaving=(), change=change)


def test_it_starts_where_its_backup_is_reached_and_its_former_disks_bind_it_no_more(reaching: ComputeViews) -> None:
    """Its node and the disks there may be what was lost."""
    test_reach.runs(reaching, "n3")
    assert test_reach.names(choose(reaching, "a", NOW_US)) == {"n3"}
    test_reach.tell(reaching, on_backup("p9"))
    found = choose(reaching, "a", NOW_US)
    assert test_reach.names(found) == {"n1", "n2"} and found is not None and removed_by(found, Filter.POOL)
    test_reach.tell(reaching, replace(DEFINED, vm=A), on_backup("p8"))
    assert test_reach.names(choose(reaching, "a", NOW_US)) == {"n3"}
    home = on_backup("p8")
    alone = tuple(replace(d, layers=(), pool_id="shared") for d in home.disks)
    test_reach.tell(reaching, replace(home, disks=alone, change=replace(home.change, kind=ChangeKind.HOME)))
    assert test_reach.names(choose(reaching, "a", NOW_US)) == {"n1", "n2"} and not reaching.homes.backups


def test_one_found_running_on_a_backup_starts_again_where_that_is(reaching: ComputeViews) -> None:
    test_reach.runs(reaching, "n1")
    disks = tuple(replace(d, pool_id="shared") for d in on_backup("p9").disks)
    test_reach.tell(reaching, VmDevicesNoted(vm=A, generation=1, disks=disks, nics=()))
    assert reaching.homes.backups == {"a": ("safe@p9",)}
    test_reach.tell(reaching, VmDeleted(vm=A, node=N1))
    assert not reaching.homes.backups


@pytest.fixture
def reaching() -> ComputeViews:
    """n1 and n2 share a pool, n3 has its own; the backup's pool is another on n3."""
    views = ComputeViews()
    for name, id in test_reach.IDS.items():
        safe = "p8" if name == "n3" else "p9"
        can = replace(CAN, pools=("default", "safe"), pool_ids={"default": id, "safe": safe})
        test_reach.tell(views, NodeJoined(node=NodeId(name), key="k"))
        test_reach.tell(views, NodeReported(node=NodeId(name), capabilities=can, boot_id="b"))
        test_reach.tell(views, CapacitySet(node=NodeId(name), capacity_mib=8000, physical_mib=8192))
        views.nodes[name].heard_us = NOW_US
    test_reach.tell(views, replace(DEFINED, vm=A, disks=(DiskWish(size_mib=100),), boot_image="", sizes_mib={}))
    return views


def test_it_does_not_move_before_its_data_is_home() -> None:
    """Also not where its node has seen nothing yet."""
    disks = on_backup("p9").disks
    noted = VmDevicesNoted(vm=A, generation=1, disks=disks[:1], nics=NICS, changed=True)
    outcome = vm.given(*RUNNING, noted).when(MigrateVm(vm="a", choice=choice(NodeId("n2"))))
    outcome.refused(ComputeRefusal.BUSY)
    assert outcome.refusal is not None and "backup" in str(outcome.refusal)
    home = replace(noted, disks=tuple(replace(d, layers=()) for d in disks[:1]))
    assert vm.given(*RUNNING, noted, home).when(MigrateVm(vm="a", choice=choice(NodeId("n2")))).events


def test_what_a_start_on_a_backup_has_is_told_when_it_has_come_home() -> None:
    """A process that is born with its disks whole says so at once: it is not taken for granted."""
    spec = replace(LAUNCHED.spec, disks=on_backup("p9").disks)
    assert ordered(spec).chains == ()
    assert ordered(replace(spec, disks=tuple(replace(d, layers=()) for d in spec.disks))).chains == ()
