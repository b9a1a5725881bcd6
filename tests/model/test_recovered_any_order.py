"""Recoveries in any order among starts, ends, snapshots and deletions: a backup is never written nor removed, nothing that the VM
had goes before it is home, and then all of it does."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from proto.hardware import standing
from proto.io import DisksHome, DisksRecovered, RemoveDevices
from proto.machine import Disk
from services.io.recovering import evolve as _evolve
from services.io.recovering import with_former
from services.io.states import Granted, Made, NoDevices
from tests.model.io_story import GRANT
from tests.model.recovery_story import IN_PLACE
from tests.model.recovery_story import ORIGIN as AT_P9
from tests.model.recovery_story import SAVED as ON_P9
from tests.model.snapshot_story import sees
from tests.model.test_io_snapshots_any_order import STEPS, Files, Story

ORIGIN = replace(AT_P9, pool_id="")
SAVED = tuple(replace(one, layers=tuple(replace(layer, origin=ORIGIN) for layer in one.layers)) for one in ON_P9)
BACKUP = {layer.file for one in SAVED for layer in one.layers}
MORE = (*STEPS, *("recover", "some", "half", "away") * 2, "see", "start", "stop", "remove", "merge")


class Kept(Files):
    """Nobody writes into a backup, or removes what is in it."""

    def write(self, disk: Disk) -> None:
        assert disk.file not in BACKUP
        super().write(disk)

    def remove(self, removed: Any) -> None:
        names = {file for d in removed for file in (d.file, *(one.file for one in d.layers))}
        assert not names & BACKUP, "a backup is removed"
        super().remove(removed)


class Recoveries(Story):
    """homeless: what was had before, until its VM's disks are its own again."""

    def __init__(self) -> None:
        self.homeless: set[str] = set()
        self.left: set[str] = set()
        super().__init__()

    def do(self, step: str) -> None:
        if not self.events:
            self.files = Kept()
            for one in SAVED:
                new, full = (layer.file for layer in one.layers)
                self.files.holds |= {full: (-1,), new: (-1, -2)}
                self.files.stands |= {full: "", new: full}
        before, had = len(self.events), self.state
        match step:
            case "recover" | "some":
                disks = SAVED if step == "recover" else SAVED[:1]
                self.say(replace(IN_PLACE, recovery=f"r1-{self.count}", disks=disks))
            case "half" if isinstance(had, Granted):
                self._half(had)
            case "away" if not isinstance(had, Granted):
                self.say(RemoveDevices(vm="a"))
        super().do(step)
        self._look(had, self.events[before:])

    def _half(self, state: Granted) -> None:
        """One disk is home before the others."""
        first = next((disk for disk in state.disks if standing(disk)), None)
        if first is None or first.file not in self.files.holds:
            return
        self.files.merge(first)
        chains = tuple((d.slot, self.files.chain(d)) for d in state.disks if d.file in self.files.holds)
        seen = sees(state, generation=state.holder)
        self.say(replace(seen, hardware=replace(seen.hardware, chains=chains)))

    def _look(self, had: Any, news: Any) -> None:
        state = self.state
        for event in news:
            if isinstance(event, DisksRecovered):
                self.homeless |= {file for d in event.former for file in (d.file, *(one.file for one in d.layers))} - BACKUP
            if isinstance(event, DisksHome):
                self.homeless = set()
        if isinstance(state, Made):
            self.left |= {disk.file for disk in state.kept}
            wanted = {d.file for one in state.unwanted for d in one.disks}
            assert not self.homeless & wanted, "what it had is to be removed before it is home"
            assert (state.recovering is not None) or not any(map(standing, state.disks))
            for disk in state.disks:
                if disk.made and not standing(disk):
                    assert not set(self.files.chain(disk)) & BACKUP, "it is said to be home, and stands on a backup"
        else:
            self.homeless = set()
        if isinstance(state, NoDevices) and not state.unwanted:
            assert set(self.files.holds) - BACKUP <= self.left, "something is left for ever"


def told(steps: list[str]) -> Recoveries:
    story = Recoveries()
    for step in steps:
        story.do(step)
    return story


@settings(max_examples=250, deadline=None)
@given(st.lists(st.sampled_from(MORE), max_size=40))
def test_whatever_comes_in_whatever_order(steps: list[str]) -> None:
    story = told(steps)
    assert all(story.files.holds[layer.file] for one in SAVED for layer in one.layers)


def test_the_steps_show_something() -> None:
    story = told(["see", "take", "see", "stop", "recover", "start", "half", "stop", "start", "see", "remove", "take", "see"])
    assert any(isinstance(event, DisksHome) for event in story.events) and not story.homeless
    assert [s.name for s in story.state.snapshots] == ["s13"]  # type: ignore[union-attr]
    gone = told(["stop", "recover", "start", "stop", "away", "remove", "recover", "start", "see", "stop", "away", "remove"])
    assert set(gone.files.holds) == BACKUP and GRANT.vm == "a"


def _at_once(state: Any, version: int) -> Any:
    return state.unwanted


def _goes(state: Any, event: Any, version: int) -> Any:
    after = _evolve(state, event, version)
    return replace(after, unwanted=with_former(after, version))


MUTANTS: dict[str, tuple[str, Any]] = {
    "what lies in a backup goes with what stood on it": ("services.io.layers.alone", lambda disk: disk),
    "home as soon as one is": ("services.io.recovering.all", any),
    "what it had stays for ever": ("services.io.recovering.with_former", _at_once),
    "what it had goes at once": ("services.io.recovering.evolve", _goes),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_each_guard_is_missed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it, some order of steps loses something, or keeps it for ever."""
    target, without = MUTANTS[name]
    monkeypatch.setattr(target, without, raising=False)
    draw = Random(1)
    with pytest.raises((AssertionError, KeyError, IndexError)):
        for _ in range(300):
            told(draw.choices(MORE, k=40))
