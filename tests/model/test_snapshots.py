"""A snapshot and its tail fold to what the whole log folds to; one that this code cannot read is thrown away."""

from __future__ import annotations

import msgspec
import pytest

from libs.common.host import snapshots
from libs.common.host.core import Host, state_bytes
from libs.common.log import Snapshot
from libs.world.faults import Storm, story
from proto.upcasts import UPCASTS
from services.compute.app import SERVICE as COMPUTE
from services.io.app import SERVICE as IO
from services.memory.app import SERVICE as MEMORY
from tests.toy import QUIET


@pytest.mark.parametrize("service", [COMPUTE, MEMORY, IO], ids=lambda s: s.name)
def test_a_snapshot_at_any_position_and_the_tail_are_the_whole(service: object) -> None:
    world = story(5, Storm(faults=4))
    events = world.log.read_all_now(0, 10**6)
    whole = Host(service, dict(UPCASTS))  # type: ignore[arg-type]
    whole.fold(events, len(events))
    for at in range(0, len(events), 7):
        first = Host(service, dict(UPCASTS))  # type: ignore[arg-type]
        first.fold(events[:at], at)
        snapshot = snapshots.take(first)
        assert snapshot is not None and snapshot.position == at
        second = Host(service, dict(UPCASTS))  # type: ignore[arg-type]
        assert snapshots.restore(second, snapshot) == at
        second.fold(events[at:], len(events))
        assert state_bytes(second) == state_bytes(whole)
        assert _views(second) == _views(whole)


def test_a_snapshot_of_other_code_is_not_read() -> None:
    taken = snapshots.take(Host(QUIET))
    assert taken is not None
    assert snapshots.restore(Host(QUIET), msgspec.structs.replace(taken, schema="other", data=b"\xc1")) == 0
    assert snapshots.restore(Host(QUIET), None) == 0
    assert snapshots.schema(COMPUTE) != snapshots.schema(IO)
    assert isinstance(taken, Snapshot)


def _views(host: Host) -> object:
    """Sets in one order: those of words come in another with each process."""
    return msgspec.to_builtins(host.views, order="deterministic")
