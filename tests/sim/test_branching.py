"""A branched world is the same world, and another: what befalls one is nothing to the other."""

from __future__ import annotations

from collections import deque
from functools import partial
from random import Random
from typing import Any

import numpy as np
import pytest

from libs.common.host.core import state_bytes
from libs.world.branch import Mould, branched
from libs.world.faults import Storm, story
from libs.world.world import World
from proto.compute import DefineVm, StartVm
from proto.machine import DiskWish
from services.compute.choosing import choose, wish
from services.compute.policy import place


def start(world: World, n: int) -> None:
    world.ask("compute", f"vm-vm-{n}", StartVm(vm=f"vm-{n}"))


def booted(seed: int = 1) -> World:
    world = World(seed)
    world.begin()
    world.run(6)
    for n in range(5):
        world.ask("compute", f"vm-vm-{n}", DefineVm(vm=f"vm-{n}", memory_mib=512, disks=(DiskWish(image="tiny"),)))
        world.net.after(500_000, partial(start, world, n))
    world.run(0.7)  # in the middle of the starts
    return world


def told(world: World) -> tuple[Any, ...]:
    states = [state_bytes(p.host) for p in world.services.values() if p.host is not None]
    return world.log.read_all_now(0, 10**6), states, world.net.steps, world.net.deliveries


def test_both_go_on_alike() -> None:
    first = booted()
    second = branched(first)
    for world in (first, second):
        world.run(10)
        world.agents["n1"].power_off()
        world.run(10)
    assert told(first) == told(second) == told(branched(second))


def test_what_befalls_one_is_nothing_to_the_other() -> None:
    first, alone = booted(), booted()
    second = branched(first)
    second.net.random.seed(9)
    second.agents["n2"].power_off()
    second.services["compute"].crash()
    second.run(10)
    first.run(10)
    alone.run(10)
    assert told(first) == told(alone) != told(second)


def test_what_befalls_one_cast_is_nothing_to_the_next() -> None:
    first = booted()
    mould = Mould(first)
    second, third = mould.cast(), mould.cast()
    second.agents["n2"].power_off()
    second.run(10)
    fourth = mould.cast()
    for world in (third, fourth, first):
        world.run(10)
    assert told(first) == told(third) == told(fourth) != told(second)


def test_what_is_one_and_the_same_is_so_in_a_branch() -> None:
    inner: list[int] = []
    pair = (inner, 1)
    first: dict[str, Any] = {"a": inner, "b": pair, "c": [pair], "d": (1, 2), "e": Slotted(inner)}
    first["f"] = partial(inner.append, 5)
    other = branched(first)
    assert other["a"] is other["b"][0] is other["e"].inner is not inner
    assert other["b"] is other["c"][0] and other["d"] is first["d"]
    other["f"]()
    assert (inner, other["a"]) == ([], [5])
    assert not hasattr(other["e"], "late")


class Slotted:
    __slots__ = ("inner", "late")

    def __init__(self, inner: list[int]) -> None:
        self.inner = inner


def test_closures_cells_and_bound_methods_are_of_the_branch() -> None:
    box: dict[str, Any] = {"n": [0]}

    def more(by: int = 1) -> None:
        box["n"].append(by)

    box |= {"call": more, "bound": box["n"].append, "queue": deque([box["n"]]), "random": Random(3)}
    other = branched(box)
    other["call"]()
    other["bound"](7)
    assert (box["n"], other["n"]) == ([0], [0, 1, 7])
    assert other["queue"][0] is other["n"] and other["random"].random() == box["random"].random()


def test_an_array_and_its_windows_are_one_in_a_branch() -> None:
    whole = np.arange(12).reshape(3, 4)
    first: dict[str, Any] = {"rows": tuple(whole), "column": whole[:, 2], "whole": whole, "backwards": whole[1, ::-1]}
    other = branched(first)
    other["whole"][1, 2] = 70
    assert (other["rows"][1][2], other["column"][1], other["backwards"][1]) == (70, 70, 70)
    assert (whole[1, 2], first["column"][1]) == (6, 6)


def test_a_branch_places_by_what_became_of_its_nodes() -> None:
    """Of compute's index, which holds its facts in one array and looks at them by others."""
    world = branched(booted())
    world.run(10)
    compute = world.services["compute"].host
    assert compute is not None
    views, now_us = compute.views, world.services["compute"].now_us
    for vm in ("vm-0", "vm-1"):
        assert choose(views, vm, now_us) == place(wish(views, views.vms[vm], now_us), views.facts(now_us, vm))


def test_what_cannot_be_copied_is_named() -> None:
    with pytest.raises(TypeError, match="generator"):
        branched({"ids": (n for n in range(3))})


@pytest.mark.parametrize("seed", (3, 4))
def test_checks_of_what_changed_find_what_checks_of_everything_find(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = story(seed, Storm(seconds=15))
    monkeypatch.setattr("libs.world.checks.EVERYTHING", True)
    whole = story(seed, Storm(seconds=15))
    assert told(quick) == told(whole)
    assert (quick.checker.position, quick.checker.generations) == (whole.checker.position, whole.checker.generations)
