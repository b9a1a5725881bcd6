"""What guests come to while their nodes are well; their signs of life are looked at only where the story wants it (`vitals`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from libs.world.befall.kind import Kind, Way
from libs.world.story import Step

if TYPE_CHECKING:
    from libs.world.world import World


def _ails(ail: str) -> Way:
    def way(world: World, step: Step) -> None:
        assert world.guests is not None
        world.guests.befall(step.who, ail)

    return way


def _panic(world: World, step: Step) -> None:
    """Its kernel says so."""
    for node in world.agents.values():
        vm = node.host.vms.get(step.who)
        if vm is not None and not vm.starting and node.powered:
            node.host.panic(step.who, world.net.now_us)
            node.watch()


KINDS: dict[str, Kind] = {
    "guest_panic": Kind("vm", "guest", _panic),
    "guest_hang": Kind("vm", "guest", _ails("hang")),
    "guest_blue": Kind("vm", "guest", _ails("blue")),
    "guest_still": Kind("vm", "guest", _ails("still"), _ails("well")),
    "guest_silent": Kind("vm", "guest", _ails("silent"), _ails("well")),
    "guest_idle": Kind("vm", "guest", _ails("idle"), _ails("well")),
}
