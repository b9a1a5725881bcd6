"""Images: taken in as they were announced, deleted when nobody has them."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.common.decider import Refused
from proto.io import (
    DeleteImage,
    ImageCommand,
    ImageDeleted,
    ImageEvent,
    ImageFormat,
    ImageImported,
    ImageRejected,
    Refusal,
    Suggestion,
)
from proto.machine import DiskFormat
from services.io.images import IMAGE, Image
from tests.model.io_story import (
    GONE,
    IMAGE_COMMANDS,
    IMAGE_HISTORIES,
    IMPORT,
    IMPORTED,
    INFO,
    N2,
    REPORT,
    UNWANTED,
    WISHED,
    images,
)


@pytest.mark.parametrize("history", IMAGE_HISTORIES.values(), ids=IMAGE_HISTORIES)
def test_every_image_command_is_answered_and_saying_it_twice_changes_nothing(history: tuple[ImageEvent, ...]) -> None:
    images.given(*history).settles(*IMAGE_COMMANDS)


def test_an_import_in_full() -> None:
    images.given().when(IMPORT).then(WISHED).twice()
    images.given(WISHED).when(REPORT).then(IMPORTED).twice()
    images.given(WISHED, IMPORTED).when(IMPORT).refused(Refusal.IMAGE_KNOWN)
    images.given(WISHED).when(msgspec.structs.replace(IMPORT, file="other.qcow2")).refused(Refusal.IMAGE_BUSY)
    images.given().when(msgspec.structs.replace(IMPORT, node="")).refused(Refusal.NO_NODE)


def test_only_what_the_asked_agent_saw_counts() -> None:
    images.given(WISHED).when(msgspec.structs.replace(REPORT, node=N2)).refused(Refusal.NOT_PERMITTED)
    images.given(WISHED).when(msgspec.structs.replace(REPORT, order_version=0)).nothing()
    images.given(WISHED, IMPORTED, UNWANTED).when(msgspec.structs.replace(GONE, node=N2)).refused(Refusal.NOT_PERMITTED)
    images.given(WISHED, IMPORTED, UNWANTED).when(msgspec.structs.replace(GONE, order_version=2)).nothing()


def test_an_image_that_is_not_what_was_said_is_rejected() -> None:
    rejected = ImageRejected(image="tiny", sentence="backing file")
    images.given(WISHED).when(msgspec.structs.replace(REPORT, info=None, sentence="backing file")).then(rejected)
    raw = msgspec.structs.replace(INFO, format=DiskFormat.RAW)
    (event,) = images.given(WISHED).when(msgspec.structs.replace(REPORT, info=raw)).events
    assert isinstance(event, ImageRejected) and "raw" in event.sentence
    other = msgspec.structs.replace(WISHED, sha256="b" * 64)
    (event,) = images.given(other).when(REPORT).events
    assert isinstance(event, ImageRejected) and "sha256" in event.sentence
    images.given(WISHED, rejected).when(IMPORT).then(WISHED)


def test_what_was_made_a_qcow2_counts_as_what_was_announced() -> None:
    asked = msgspec.structs.replace(IMPORT, format=ImageFormat.OVA, disk="two")
    wished = msgspec.structs.replace(WISHED, format=ImageFormat.OVA, disk="two")
    images.given().when(asked).then(wished)
    info = msgspec.structs.replace(INFO, source=ImageFormat.OVA, suggests=Suggestion(vcpus=2))
    (event,) = images.given(wished).when(msgspec.structs.replace(REPORT, info=info)).events
    assert isinstance(event, ImageImported) and event.info == info
    for wrong in (INFO, msgspec.structs.replace(info, format=DiskFormat.RAW)):
        (event,) = images.given(wished).when(msgspec.structs.replace(REPORT, info=wrong)).events
        assert isinstance(event, ImageRejected) and "announced as ova" in event.sentence


def test_a_deletion_in_full() -> None:
    images.given().when(DeleteImage(image="tiny")).refused(Refusal.IMAGE_UNKNOWN)
    images.given(WISHED).when(DeleteImage(image="tiny")).refused(Refusal.IMAGE_BUSY)
    images.given(WISHED, IMPORTED).when(DeleteImage(image="tiny", used_by=("a",))).refused(Refusal.IMAGE_IN_USE)
    images.given(WISHED, IMPORTED).when(DeleteImage(image="tiny")).then(UNWANTED).twice()
    images.given(WISHED, IMPORTED, UNWANTED).when(IMPORT).refused(Refusal.IMAGE_BUSY)
    images.given(WISHED, IMPORTED, UNWANTED).when(GONE).then(ImageDeleted(image="tiny")).twice()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(IMAGE_COMMANDS), max_size=30))
def test_image_states_survive_the_wire(story: list[ImageCommand]) -> None:
    state: Image = IMAGE.initial
    for command in story:
        try:
            state = IMAGE.fold(IMAGE.decide(command, state), state)
        except Refused as refused:
            assert refused.sentence and refused.remedy
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(state), type=IMAGE.state) == state
