"""Devices: made once, granted to rising generations, removed when seen removed."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.common.decider import Refused
from libs.common.messages import NodeId
from libs.common.testing import Given
from proto.io import (
    DevicesCommand,
    DevicesDenied,
    DevicesEvent,
    DevicesGranted,
    GrantDevices,
    ImageEvent,
    Refusal,
    RemoveDevices,
    RevokeDevices,
)
from proto.machine import DiskWish, NicWish
from services.io.images import IMAGE, Deleting, Imported, Importing, NoImage
from services.io.model import DEVICES
from services.io.nics import make_nics
from services.io.states import Devices, Granted, NoDevices, Removing, Revoked
from tests.model.io_story import (
    ASKED,
    DEVICE_COMMANDS,
    DEVICE_HISTORIES,
    DISKS,
    GRANT,
    GRANTED,
    IMAGE_HISTORIES,
    N1,
    N2,
    NICS,
    REMOVED,
    REVOKED,
    SEEN,
    devices,
)


@pytest.mark.parametrize("history", DEVICE_HISTORIES.values(), ids=DEVICE_HISTORIES)
def test_every_device_command_is_answered_and_saying_it_twice_changes_nothing(
    history: tuple[DevicesEvent, ...],
) -> None:
    for command in DEVICE_COMMANDS:
        first = devices.given(*history).when(command)
        again = Given(DEVICES, DEVICES.fold(first.events, first.before)).when(command)
        denied = first.events and isinstance(first.events[0], DevicesDenied)  # a denial is answered each time
        assert denied or not again.events, command


def test_the_first_grant_makes_the_devices_and_later_ones_return_them() -> None:
    devices.given().when(GRANT).then(GRANTED).twice()
    other = msgspec.structs.replace(GRANT, node=N2, generation=2, disks=(DiskWish(size_mib=99),))
    devices.given(GRANTED, REVOKED).when(other).then(msgspec.structs.replace(GRANTED, node=N2, generation=2))


def test_devices_are_the_same_for_the_same_name_and_differ_between_names() -> None:
    assert [d.name for d in DISKS] == ["disk0", "disk1"]
    assert [d.size_mib for d in DISKS] == [64, 10]
    assert [d.slot for d in DISKS] + [n.slot for n in NICS] == [1, 2, 3]
    assert [d.file for d in DISKS] == ["a-disk0.qcow2", "a-disk1.qcow2"]
    assert len({d.serial for d in DISKS}) == 2 and all(len(d.serial) == 20 for d in DISKS)
    macs = {make_nics(f"vm{i}", (NicWish(),), 0, {})[0].mac for i in range(2000)}
    assert len(macs) == 2000 and all(int(m[:2], 16) & 3 == 2 for m in macs), "unicast, locally administered"
    for value in (*DISKS, *NICS):
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(value), type=type(value)) == value


def test_a_grant_without_its_image_is_denied_with_a_sentence() -> None:
    bare = msgspec.structs.replace(GRANT, sizes_mib={})
    (event,) = devices.given().when(bare).events
    assert isinstance(event, DevicesDenied) and "tiny" in event.sentence
    later = msgspec.structs.replace(bare, generation=2)
    (event,) = devices.given(GRANTED, REVOKED).when(later).events
    assert isinstance(event, DevicesDenied)


def test_only_a_rising_generation_is_granted() -> None:
    second = msgspec.structs.replace(GRANTED, generation=2)
    devices.given(GRANTED, REVOKED, second).when(GRANT).nothing()
    devices.given(GRANTED, REVOKED, second).when(RevokeDevices(vm="a", generation=1)).nothing()
    devices.given(*DEVICE_HISTORIES["removed"]).when(GRANT).nothing()
    devices.given(*DEVICE_HISTORIES["removed"]).when(msgspec.structs.replace(GRANT, generation=2)).then(second)


def test_a_removal_in_full() -> None:
    devices.given(GRANTED).when(RevokeDevices(vm="a", generation=1)).then(REVOKED).twice()
    devices.given(GRANTED, REVOKED).when(RemoveDevices(vm="a", node="n1")).then(ASKED).twice()
    removing = devices.given(GRANTED, REVOKED, ASKED)
    removing.when(msgspec.structs.replace(SEEN, order_version=2)).nothing()
    removing.when(msgspec.structs.replace(SEEN, node=N2)).refused(Refusal.NOT_PERMITTED)
    removing.when(SEEN).then(REMOVED).to_state(NoDevices(generation=1, version=4)).twice()


def test_a_removal_takes_the_right_to_write_first() -> None:
    devices.given(GRANTED).when(RemoveDevices(vm="a")).then(REVOKED, ASKED)


def test_without_disks_there_is_nothing_to_wait_for() -> None:
    diskless = msgspec.structs.replace(GRANTED, disks=())
    devices.given(diskless, REVOKED).when(RemoveDevices(vm="a")).then(REMOVED)
    devices.given().when(RemoveDevices(vm="a")).nothing()


def test_a_vm_made_again_waits_until_its_namesakes_disks_are_gone() -> None:
    again = msgspec.structs.replace(GRANT, generation=2)
    (event,) = devices.given(GRANTED, REVOKED, ASKED).when(again).events
    assert isinstance(event, DevicesDenied) and "still being removed" in event.sentence


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(DEVICE_COMMANDS), st.integers(0, 5), st.sampled_from([N1, N2])), max_size=30))
def test_no_story_lowers_a_granted_generation(story: list[tuple[DevicesCommand, int, NodeId]]) -> None:
    state: Devices = DEVICES.initial
    for said, generation, node in story:
        grants = isinstance(said, GrantDevices)
        command = msgspec.structs.replace(said, generation=generation, node=node) if grants else said
        before = state
        try:
            events = DEVICES.decide(command, state)
        except Refused as refused:
            assert refused.sentence and refused.remedy
            continue
        state = DEVICES.fold(events, state)
        assert state.generation >= before.generation and state.version == before.version + len(events)
        for event in events:
            if isinstance(event, DevicesGranted):
                assert event.generation > before.generation and event.disks == DISKS and event.nics == NICS
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(state), type=DEVICES.state) == state


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.sampled_from([e for h in DEVICE_HISTORIES.values() for e in h]), max_size=20),
    st.lists(st.sampled_from([e for h in IMAGE_HISTORIES.values() for e in h]), max_size=20),
)
def test_evolve_never_raises_whatever_the_order(of_devices: list[DevicesEvent], of_image: list[ImageEvent]) -> None:
    assert isinstance(DEVICES.fold(of_devices), NoDevices | Granted | Revoked | Removing)
    assert isinstance(IMAGE.fold(of_image), NoImage | Importing | Imported | Deleting)


def test_what_a_node_was_to_remove_that_is_removed_itself_is_anothers_or_over() -> None:
    """Else the name could never be used again."""
    removing = (GRANTED, REVOKED, ASKED)
    devices.given(*removing).when(RemoveDevices(vm="a", gone="n1")).then(REMOVED).twice()
    devices.given(*removing).when(RemoveDevices(vm="a", node="n2", gone="n1")).then(msgspec.structs.replace(ASKED, node=N2)).twice()
    devices.given(*removing).when(RemoveDevices(vm="a", gone="n2")).nothing()
    devices.given(GRANTED, REVOKED).when(RemoveDevices(vm="a", gone="n1")).nothing()
    devices.given().when(RemoveDevices(vm="a", gone="n1")).nothing()
