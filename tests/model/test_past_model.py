"""A past state made of a kept snapshot and the events since is what a ReadModel holds that took every event."""

from __future__ import annotations

import asyncio
from functools import cache

import msgspec
import pytest

from libs.common.log.memory import MemoryLog
from libs.common.messages import Recorded
from services.gateway import snapshot
from services.gateway.model import ReadModel
from services.gateway.past import kept
from services.gateway.past.fill import fill
from services.gateway.past.moment import BadMoment, Moment
from services.gateway.past.pasts import PASTS_MAX, STRETCHES_MAX, Pasts
from services.gateway.past.store import MemoryKept
from tests.model.test_folding import lived


def read_up_to(position: int) -> ReadModel:
    model = ReadModel()
    for recorded in lived()[:position]:
        model.apply(recorded)
    return model


@cache
def log() -> MemoryLog:
    made = MemoryLog(lambda: 0)
    made._events = list(lived())
    return made


def plain(view: object) -> object:
    return msgspec.to_builtins(view, order="deterministic")


def views(model: object) -> dict[str, object]:
    return {name: plain(getattr(model, name)) for name in kept.PARTS}


@pytest.mark.parametrize("position", [1, 39, 40, 41, 100, 170, len(lived())])
def test_every_view_is_as_it_was(position: int) -> None:
    async def past() -> object:
        store = MemoryKept()
        await fill(log(), store, every=40)
        return await Pasts(log(), store).at(Moment(position=position))

    assert views(asyncio.run(past())) == views(read_up_to(position))


def test_a_view_is_made_when_it_is_looked_at_and_stays() -> None:
    async def past() -> None:
        model = await Pasts(log(), MemoryKept()).at(Moment(position=150))
        assert not set(kept.PARTS) & set(vars(model))
        first = model.nodes
        assert model.nodes is first and set(kept.PARTS) & set(vars(model)) == {"nodes"}
        with pytest.raises(AttributeError):
            _ = model.guests

    asyncio.run(past())


def test_neighbours_share_what_was_read_and_only_so_many_are_kept_at_hand() -> None:
    reads: list[tuple[int, int | None]] = []

    class Counted(MemoryLog):
        def replay(self, after: int = 0, until: int | None = None):  # type: ignore[no-untyped-def]
            reads.append((after, until))
            return super().replay(after, until)

    async def past() -> None:
        counted = Counted(lambda: 0)
        counted._events = list(lived())
        pasts = Pasts(counted, MemoryKept())
        models = {position: await pasts.at(Moment(position=position)) for position in (100, 50, 110, 50)}
        for position, model in models.items():  # looked at when all are there
            assert views(model) == views(read_up_to(position))
        assert reads == [(0, 100), (100, 110)]
        for position in range(120, 120 + 2 * PASTS_MAX):
            await pasts.at(Moment(position=position))
        assert len(pasts._models) == PASTS_MAX and len(pasts._stretches) <= STRETCHES_MAX

    asyncio.run(past())


def test_what_is_missing_is_made_what_is_too_many_goes_and_other_code_counts_for_nothing() -> None:
    async def filled() -> None:
        store, head = MemoryKept(), len(lived())
        await store.keep(msgspec.structs.replace(kept.packed(50, kept.raw(ReadModel(50))), schema="older"))
        assert await fill(log(), store, every=40) == head // 40
        assert await store.positions(snapshot.schema()) == list(range(40, head + 1, 40))
        assert await store.positions("older") == []
        assert await fill(log(), store, every=40) == 0
        await store.drop([80])
        assert await fill(log(), store, every=40) == 1
        at_80 = await store.nearest(119, snapshot.schema())
        assert at_80 is not None and at_80.position == 80
        parts = kept.parts_of(at_80)
        assert {name: plain(kept.view(name, parts)) for name in kept.PARTS} == views(read_up_to(80))
        await fill(log(), store, every=40, kept_max=3)
        assert len(await store.positions(snapshot.schema())) <= 3

    asyncio.run(filled())


def test_they_lie_twice_as_far_apart_in_a_log_of_twice_the_length() -> None:
    assert kept.wanted(99, 100, 4) == []
    assert kept.wanted(450, 100, 4) == [100, 200, 300, 400]
    assert kept.wanted(500, 100, 4) == [200, 400]
    assert kept.spacing(10_000_000) * kept.KEPT_MAX >= 10_000_000


def test_too_far_from_any_that_was_kept_is_said() -> None:
    with pytest.raises(BadMoment, match="the state at 150 is 150 events from the nearest"):
        asyncio.run(Pasts(log(), MemoryKept(), tail_max=100).at(Moment(position=150)))


def test_an_event_of_the_future_version_is_passed_over() -> None:
    strange = Recorded(1, "vm-a", 1, "vm_beamed", 1, 10, b"\x80", lived()[0].meta)

    async def past() -> None:
        made = MemoryLog(lambda: 0)
        made._events = [strange]
        model = await Pasts(made, MemoryKept()).at(Moment(position=1))
        assert model.vms.all == {} and model.position == 1

    asyncio.run(past())
