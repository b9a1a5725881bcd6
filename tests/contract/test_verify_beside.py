"""`log verify --deep` folds in a process of its own: what is found there is what would be found here; one that ends is no proof."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import cache, partial
from itertools import batched

import msgspec
import pytest

from libs.common.host import snapshots
from libs.common.host.folding import Folding
from libs.common.log import Snapshot
from libs.common.messages import Recorded
from libs.verify import Fault
from libs.verify.beside import Beside, Ended
from libs.verify.states import Claim
from libs.verify.verify import Reader
from libs.world.play import play
from libs.world.story import Step, Story
from services.cli import log_deep

STEPS = (Step("migrate", 1.0, "vm-0"), Step("stop", 3.0, "vm-2"), Step("power", 4.0, "n2", for_s=20.0))
CHUNK = 97


@cache
def lived() -> tuple[Recorded, ...]:
    outcome = play(Story(seed=4, vms=4, seconds=20.0, peace_s=20.0, steps=STEPS))
    assert not outcome.fault, outcome.fault
    return tuple(outcome.world.log.read_all_now(0, 1_000_000))


def told(reader: Reader) -> list[Fault]:
    for chunk in batched(lived(), CHUNK):
        reader.take(list(chunk))
    reader.finish()
    return reader.faults


def here(held: log_deep.Held) -> list[Fault]:
    return [fault for reader in log_deep.readers(held) for fault in told(reader)]


def taken(wrong: str = "") -> Snapshot:
    """compute's snapshot of the whole log; wrong: a stream that is another in it."""
    host = log_deep.fresh("compute")
    Folding([host], [len(lived())]).fold(lived())
    host.slots.settle()
    if wrong:
        host.slots[wrong].state = msgspec.structs.replace(host.slots[wrong].state, generation=77)
    snapshot = snapshots.take(host)
    assert snapshot is not None
    return snapshot


def test_what_holds_here_holds_beside() -> None:
    with Beside(partial(log_deep.readers, log_deep.Held((taken(),), ()))) as beside:
        assert told(beside) == []


def test_what_does_not_is_named_the_same() -> None:
    whole = taken()
    cut = msgspec.structs.replace(whole, data=whole.data[:-3])
    none = Claim("io as it runs", "io", len(lived()), {"devices-none": (3, b"x")})
    held = log_deep.Held((taken("vm-vm-1"), cut), (none,))
    with Beside(partial(log_deep.readers, held)) as beside:
        found = told(beside)
    assert found == here(held)
    assert {"stream vm-vm-1", "snapshot compute", "stream devices-none"} <= {fault.where for fault in found}


class Leaves:
    """A reader whose process is killed, as by a kernel that wants its memory."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []

    def take(self, records: Sequence[Recorded]) -> None:
        os._exit(9)

    def finish(self) -> None:
        pass


def leaves() -> list[Reader]:
    return [Leaves()]


def fails() -> list[Reader]:
    raise ValueError("no such service")


def test_a_process_that_ends_under_way_is_no_proof() -> None:
    with Beside(leaves) as beside, pytest.raises(Ended, match="exit code 9"):
        told(beside)


def test_one_that_does_not_begin_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Ended, match="exit code 1"), Beside(fails):
        pass
    assert "no such service" in capfd.readouterr().err


def test_one_that_is_given_up_ends() -> None:
    with pytest.raises(KeyboardInterrupt), Beside(partial(log_deep.readers, log_deep.Held((), ()))) as beside:
        beside.take(lived()[:CHUNK])
        raise KeyboardInterrupt
    assert beside._process.exitcode == 0


@pytest.fixture
def cores(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[int]]:
    """On which this process may run, as it is told."""
    found = {0, 1}
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: found)
    yield found


def test_a_short_log_and_a_single_core_have_none(cores: set[int]) -> None:
    held = log_deep.Held((), ())
    for events, many in ((log_deep.EVENTS_MIN - 1, 2), (log_deep.EVENTS_MIN, 1)):
        cores.clear()
        cores.update(range(many))
        with log_deep.folding(held, events) as readers:
            assert not any(isinstance(reader, Beside) for reader in readers)
    cores.update({0, 1})
    with log_deep.folding(held, log_deep.EVENTS_MIN) as readers:
        assert [type(reader) for reader in readers] == [Beside]
