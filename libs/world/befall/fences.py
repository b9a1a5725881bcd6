"""Fence devices that are away, slow, wrong or lie; only where the story has some."""

from __future__ import annotations

from typing import TYPE_CHECKING

from libs.world.befall.kind import SECOND_US, Kind, Way
from libs.world.fencing import Quirk
from libs.world.story import Step

if TYPE_CHECKING:
    from libs.world.world import World


def _becomes(quirk: Quirk) -> Way:
    def way(world: World, step: Step) -> None:
        world.bmcs[step.who].become(quirk, round(float(step.more.get("s", 2.0)) * SECOND_US))

    return way


_well = _becomes(Quirk.NONE)

KINDS: dict[str, Kind] = {
    "fence_away": Kind("device", "fence", _becomes(Quirk.AWAY), _well),
    "fence_mute": Kind("device", "fence", _becomes(Quirk.MUTE), _well),
    "fence_password": Kind("device", "fence", _becomes(Quirk.LOCKED), _well),
    "fence_deaf": Kind("device", "fence", _becomes(Quirk.DEAF), _well),
    "fence_slow": Kind("device", "fence", _becomes(Quirk.SLOW), _well, ("s",)),
    "fence_lies": Kind("device", "fence", _becomes(Quirk.LIAR), _well),
    "fence_early": Kind("device", "fence", _becomes(Quirk.EARLY), _well, ("s",)),
}
