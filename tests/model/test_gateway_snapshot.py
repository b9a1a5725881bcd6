"""The gateway's snapshot and the tail of the log show what the whole log shows; one of other code is thrown away."""

from __future__ import annotations

import msgspec
import pytest

from libs.common.log import Snapshot
from libs.common.messages import Recorded
from libs.world.faults import Storm, story
from services.gateway import snapshot
from services.gateway.model import ReadModel


@pytest.fixture(scope="module")
def events() -> list[Recorded]:
    return story(5, Storm(faults=4)).log.read_all_now(0, 10**6)


def folded(events: list[Recorded], views: ReadModel | None = None) -> ReadModel:
    views = views or ReadModel()
    for recorded in events:
        views.apply(recorded)
    return views


def test_a_snapshot_at_any_position_and_the_tail_are_the_whole(events: list[Recorded]) -> None:
    whole = folded(events)
    assert whole.vms.all and whole.nodes.all and whole.ledgers.all and whole.tasks.all and whole.tasks.with_disks
    for at in range(0, len(events), 7):
        restored = snapshot.restore(snapshot.take(folded(events[:at])), len(events))
        assert restored is not None and restored.position == at
        assert folded(events[at:], restored) == whole


@pytest.mark.parametrize(
    "changed",
    [{"schema": "another"}, {"data": b"\xc1"}, {"data": msgspec.msgpack.encode({"vms": 1})}, {"position": 1000}],
    ids=["of other code", "broken", "of another shape", "of a future that was lost"],
)
def test_one_that_cannot_be_read_is_thrown_away(events: list[Recorded], changed: dict[str, object]) -> None:
    taken = snapshot.take(folded(events[:20]))
    assert snapshot.restore(taken, 999) is not None
    assert snapshot.restore(msgspec.structs.replace(taken, **changed), 999) is None
    assert snapshot.restore(None, 999) is None


def test_the_text_of_what_folds_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    before = snapshot.schema()
    snapshot.schema.cache_clear()
    monkeypatch.setattr(snapshot, "FOLDING", snapshot.FOLDING[1:])
    try:
        assert snapshot.schema() != before
    finally:
        snapshot.schema.cache_clear()
    assert isinstance(snapshot.take(ReadModel()), Snapshot)
