"""Where one VM's memory lies (stream `map-VM`). Pure.

    Unmapped ──report of its node──▶ Mapped ──its process has ended──▶ Unmapped
                                       │  ▲
                                       └──┘ another report: what changed is written, what did not is not

A report counts only from the node and generation that the log names for the VM: `fill` puts them beside it (holder, held), from
the view `Holders`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, assert_never, get_args

from msgspec.structs import replace

from libs.common.decider import Decider, Refused
from libs.common.host import hearing
from libs.common.messages import NodeId, Recorded, Value, VmId
from proto.compute import VmFound, VmStartFailed, VmStartRequested, VmStopped
from proto.mapping import (
    MapCommand,
    MapEvent,
    MapRefusal,
    Region,
    ReportRegions,
    UnmapRegions,
    VmRegionsMapped,
    VmRegionsUnmapped,
)
from proto.migration import VmMigrated


class State(Value, tag=True):
    """generation: the highest that was ever mapped."""

    generation: int = 0


class Unmapped(State):
    """No process of the VM is known to have memory."""


class Mapped(State, kw_only=True):
    node: NodeId
    regions: tuple[Region, ...]


Map = Unmapped | Mapped


@dataclass(slots=True)
class Holders:
    """VM -> (node, generation) that the log has started and not yet seen ended."""

    of: dict[str, tuple[str, int]] = field(default_factory=dict)

    def apply(self, recorded: Recorded, event: Any) -> None:
        if (does := self.HEARS.get(type(event))) is not None:
            does(self, recorded, event)

    def _has(self, recorded: Recorded, event: VmStartRequested | VmFound | VmMigrated) -> None:
        self.of[event.vm] = (event.node, event.generation)

    def _ended(self, recorded: Recorded, event: VmStartFailed | VmStopped) -> None:
        if self.of.get(event.vm, ("", 0))[1] <= event.generation:
            self.of.pop(event.vm, None)

    HEARS: ClassVar[hearing.Heard] = {
        **dict.fromkeys((VmStartRequested, VmFound, VmMigrated), _has),
        **dict.fromkeys((VmStartFailed, VmStopped), _ended),
    }


def fill(command: Any, holders: Holders) -> Any:
    """A report gets whose the VM is; any other command stays as it is."""
    if not isinstance(command, ReportRegions):
        return command
    node, generation = holders.of.get(command.vm, ("", 0))
    return replace(command, holder=node, held=generation)


def decide(command: MapCommand, map: Map) -> Sequence[MapEvent]:
    match command:
        case ReportRegions():
            return _report(command, map)
        case UnmapRegions():
            if not isinstance(map, Mapped) or map.generation > command.generation:
                return ()
            return [VmRegionsUnmapped(vm=VmId(command.vm), node=map.node, generation=map.generation)]


def _report(fact: ReportRegions, map: Map) -> Sequence[MapEvent]:
    if (fact.holder, fact.held) != (fact.node, fact.generation):
        named = f"generation {fact.held} on {fact.holder}" if fact.holder else "none that runs"
        raise Refused(
            MapRefusal.NOT_YOURS,
            f"{fact.node} reports the memory of generation {fact.generation} of {fact.vm}; the log names {named}",
            "report only what was started on this node",
        )
    if isinstance(map, Mapped) and (map.generation, map.node, map.regions) == (
        fact.generation,
        fact.node,
        fact.regions,
    ):
        return ()
    return [VmRegionsMapped(vm=VmId(fact.vm), node=fact.node, generation=fact.generation, regions=fact.regions)]


def evolve(map: Map, event: MapEvent) -> Map:
    match event:
        case VmRegionsMapped():
            generation = max(map.generation, event.generation)
            return Mapped(generation=generation, node=event.node, regions=event.regions)
        case VmRegionsUnmapped():
            return Unmapped(generation=map.generation)
        case _:
            assert_never(event)


def react(event: Any) -> Sequence[UnmapRegions]:
    """The end of a process ends its map."""
    match event:
        case VmStartFailed() | VmStopped():
            return [UnmapRegions(vm=event.vm, generation=event.generation)]
        case VmMigrated():
            return [UnmapRegions(vm=event.vm, generation=event.source_generation)]
        case _:
            return ()


REGIONS: Decider[MapCommand, Map, MapEvent] = Decider(
    kind="map",
    commands=get_args(MapCommand),
    events=get_args(MapEvent),
    state=Map,
    key=lambda command: command.vm,
    initial=Unmapped(),
    decide=decide,
    evolve=evolve,
)
