"""Which messages belong to which service, and the registry that decodes them all.

REGISTRY.decode(data)      any command, fact, order or ask from msgpack
REGISTRY.event(recorded)   any event of the log, upcast to today's version
registry("compute", "io")  only those services' messages
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from libs.common.messages import Fact, Message, tag_of
from libs.common.registry import Registry, members
from proto import (
    backup_files,
    balance,
    cluster,
    compute,
    drain,
    fence,
    guard,
    io,
    ioview,
    lease,
    mapping,
    memory,
    node,
    plan,
    pools,
    reserve,
    vitals,
    waves,
)
from proto.upcasts import UPCASTS


@dataclass(frozen=True, slots=True)
class Stream:
    """One kind of stream: its name's prefix, what it can be asked, what it can hold."""

    kind: str
    wishes: tuple[type[Message], ...]
    """commands and facts together: the union that the stream's decider takes"""
    events: tuple[type[Message], ...]

    @property
    def commands(self) -> tuple[type[Message], ...]:
        return tuple(c for c in self.wishes if not issubclass(c, Fact))

    @property
    def facts(self) -> tuple[type[Message], ...]:
        return tuple(c for c in self.wishes if issubclass(c, Fact))


@dataclass(frozen=True, slots=True)
class Family:
    """All messages of one service. orders and asks are what an agent hears."""

    service: str
    streams: tuple[Stream, ...] = ()
    orders: tuple[type[Message], ...] = ()
    asks: tuple[type[Message], ...] = ()
    answers: Mapping[type, type] = field(default_factory=dict)
    """the answer's class by the asked one, where it is not a Reply"""
    telemetry: tuple[type, ...] = ()

    @property
    def commands(self) -> tuple[type[Message], ...]:
        return tuple(c for s in self.streams for c in s.commands)

    @property
    def facts(self) -> tuple[type[Message], ...]:
        return tuple(c for s in self.streams for c in s.facts)

    @property
    def events(self) -> tuple[type[Message], ...]:
        return tuple(e for s in self.streams for e in s.events)

    @property
    def messages(self) -> tuple[type[Message], ...]:
        """Every class with a wire name of its own."""
        return self.commands + self.facts + self.events + self.orders + self.asks


FAMILIES: dict[str, Family] = {
    family.service: family
    for family in (
        Family(
            service="compute",
            streams=(
                Stream("vm", members(compute.VmCommand), members(compute.VmEvent)),
                Stream("node", members(compute.NodeCommand), members(compute.NodeEvent)),
                Stream("drain", members(drain.DrainCommand), members(drain.DrainEvent)),
                Stream("cluster", members(cluster.ClusterCommand), members(cluster.ClusterEvent)),
                Stream("plan", members(plan.PlanCommand), members(plan.PlanEvent)),
                Stream("balance", members(balance.BalanceCommand), members(balance.BalanceEvent)),
            ),
        ),
        Family(
            service="memory",
            streams=(
                Stream("ledger", members(memory.LedgerCommand), members(memory.LedgerEvent)),
                Stream("map", members(mapping.MapCommand), members(mapping.MapEvent)),
            ),
        ),
        Family(
            service="io",
            streams=(
                Stream("devices", members(io.DevicesCommand), members(io.DevicesEvent)),
                Stream("image", members(io.ImageCommand), members(io.ImageEvent)),
                Stream("network", members(io.NetworkCommand), members(io.NetworkEvent)),
                Stream(
                    "backups",
                    (
                        *(*members(io.BackupsCommand), *members(io.RecoveryCommand)),
                        *(*members(io.PlansCommand), *members(io.DrillsCommand), *members(io.BackupFilesCommand)),
                    ),
                    (
                        *(*members(io.BackupsEvent), *members(io.RecoveryEvent), *members(io.PlansEvent)),
                        *(*members(io.DrillsEvent), *members(io.BackupFilesEvent)),
                    ),
                ),
                Stream("pool", members(pools.PoolCommand), members(pools.PoolEvent)),
                Stream("wave", members(waves.WaveCommand), members(waves.WaveEvent)),
            ),
        ),
        Family(
            service="ha",
            streams=(
                Stream("lease", members(lease.LeaseCommand), members(lease.LeaseEvent)),
                Stream("ha", members(lease.HaCommand), members(lease.HaEvent)),
                Stream("guard", members(guard.GuardCommand), members(guard.GuardEvent)),
                Stream("reserve", members(reserve.ReserveCommand), members(reserve.ReserveEvent)),
                Stream("fence", members(fence.FenceCommand), members(fence.FenceEvent)),
                Stream("verdict", members(vitals.VerdictCommand), members(vitals.VerdictEvent)),
            ),
        ),
        Family(
            service="node",
            orders=members(node.Order),
            asks=(
                *members(node.Ask),
                *members(backup_files.Ask),
                *(lease.AskRecords, lease.AskLetter, lease.AskProbe, vitals.AskPicture),
            ),
            answers=dict.fromkeys(members(node.Order), node.Heard)
            | {node.AskExec: node.ExecResult, node.AskConsole: node.VmInfo, node.AskInfo: node.VmInfo}
            | {ioview.AskIo: ioview.VmIo}
            | {vitals.AskPicture: node.Screenshot}
            | {backup_files.AskFiles: backup_files.FilesAnswer, backup_files.AskFilesNext: backup_files.FilesChunk}
            | {node.AskScreenshot: node.Screenshot, plan.AskSchedule: plan.VmSchedule}
            | {lease.AskRecords: lease.Records, lease.AskLetter: lease.Records, lease.AskProbe: lease.Probes}
            | {mapping.AskTranslate: mapping.Translation, mapping.AskMemory: mapping.MemoryUse},
            telemetry=(
                *(node.Beat, node.CopiesBeat, node.MemoryBeat),
                *(plan.CpuBeat, pools.PoolsBeat, lease.LeaseBeat, vitals.VitalsBeat),
            ),
        ),
    )
}


def registry(*services: str) -> Registry:
    """A decoder for the messages of these services; of all, where none is named. Raises KeyError for an unknown service."""
    chosen = [FAMILIES[s] for s in services] or list(FAMILIES.values())
    classes = [c for family in chosen for c in family.messages]
    tags = [tag_of(c) for c in classes]
    if len(tags) != len(set(tags)):
        raise ValueError(f"two messages share a wire name: {sorted(t for t in set(tags) if tags.count(t) > 1)}")
    return Registry(classes, {key: step for key, step in UPCASTS.items() if key[0] in set(tags)})


def service_of(kind: str) -> str:
    """Whose streams begin with `kind-`. Raises KeyError."""
    for family in FAMILIES.values():
        if any(stream.kind == kind for stream in family.streams):
            return family.service
    raise KeyError(kind)


REGISTRY = registry()
