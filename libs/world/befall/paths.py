"""Networks that are cut, one way or both; storage that is slow, full, gone, or out of one node's reach."""

from __future__ import annotations

from typing import TYPE_CHECKING

from libs.world.befall.kind import Kind, Way
from libs.world.story import Step

if TYPE_CHECKING:
    from libs.world.world import World


def _cut(world: World, step: Step) -> None:
    world.net.cut.add(step.who or "bus")


def _joined(world: World, step: Step) -> None:
    world.net.cut.discard(step.who or "bus")


def _one_way(there: bool, to: bool) -> Way:
    """to: what goes to the node is lost; else what comes from it."""

    def way(world: World, step: Step) -> None:
        pair = ("control", step.who) if to else (step.who, str(step.more.get("to", "control")))
        (world.net.one_way.add if there else world.net.one_way.discard)(pair)

    return way


def _parted(there: bool) -> Way:
    """Nodes do not reach one another; the control plane reaches all."""

    def way(world: World, step: Step) -> None:
        for other in world.agents:
            for pair in ((other, step.who), (step.who, other)):
                (world.paths.parted.add if there else world.paths.parted.discard)(pair)

    return way


# --- storage ---------------------------------------------------------------------------------------------------------


def _areas(world: World, step: Step) -> list[str]:
    return [step.who] if step.who else sorted(world.areas)


def _slow(world: World, step: Step) -> None:
    """Writes land late, and are acknowledged later still."""
    for pool in _areas(world, step):
        world.areas[pool].stall_us = int(step.more.get("ms", 0)) * 1_000
        world.areas[pool].ack_us = int(step.more.get("ack_ms", 0)) * 1_000


def _quick(world: World, step: Step) -> None:
    for pool in _areas(world, step):
        world.areas[pool].stall_us = world.areas[pool].ack_us = 0


def _name(id: str) -> str:
    """Of a pool on its nodes."""
    return "second" if id.endswith("-second") else "default"


def _gone(gone: bool) -> Way:
    def way(world: World, step: Step) -> None:
        for id in _areas(world, step):
            world.areas[id].gone = gone
            if len(world.names) > 1:
                (world.pool.gone.add if gone else world.pool.gone.discard)(_name(id))

    return way


def _full(full: bool) -> Way:
    """Guests that run with a disk there write, and stand still."""

    def way(world: World, step: Step) -> None:
        for id in _areas(world, step):
            world.areas[id].full = full
            for pool in {pool.id: pool for pool in world.pools.values()}.values():
                if len(world.names) > 1:
                    (pool.full.add if full else pool.full.discard)(_name(id))
                elif pool.id == id:
                    pool.free_mib = 0 if full else pool.size_mib
        if full:
            _write(world)

    return way


def _write(world: World) -> None:
    for node in world.agents.values():
        for vm, found in node.host.vms.items():
            if not (found.idle or found.hung_us or found.halted or node.host.pool.room(found.spec)):
                node.host.write(vm, world.net.now_us)
        node.watch()


def _of_node(name: str, there: bool) -> Way:
    def way(world: World, step: Step) -> None:
        only = step.more.get("pool", "")
        for area in [area for id, area in world.areas.items() if only in ("", id)]:
            (getattr(area, name).add if there else getattr(area, name).discard)(step.who)

    return way


KINDS: dict[str, Kind] = {
    "cut": Kind("node", "network", _cut, _joined),
    "cut_from": Kind("node", "network", _one_way(there=True, to=False), _one_way(there=False, to=False), ("to",)),
    "cut_to": Kind("node", "network", _one_way(there=True, to=True), _one_way(there=False, to=True)),
    "peers_cut": Kind("node", "network", _parted(there=True), _parted(there=False)),
    "bus_away": Kind("", "network", _cut, _joined),
    "storage_away": Kind("node", "storage", _of_node("away", there=True), _of_node("away", there=False), ("pool",)),
    "storage_blind": Kind("node", "storage", _of_node("blind", there=True), _of_node("blind", there=False), ("pool",)),
    "storage_slow": Kind("pool", "storage", _slow, _quick, ("ms", "ack_ms")),
    "storage_gone": Kind("pool", "storage", _gone(gone=True), _gone(gone=False)),
    "storage_full": Kind("pool", "storage", _full(full=True), _full(full=False)),
}
