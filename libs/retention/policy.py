"""Which partitions are due, and what holds one up. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import msgspec

DAY_US = 86_400 * 1_000_000


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """What stays in the database: at least so many of the newest events, all of so many days (0: neither is asked for), and the
    commands of so many days, by whose ids a repeated one is known. Whole partitions are archived alone."""

    keep_events: int = 0
    keep_days: float = 0.0
    commands_days: float = 30.0


class Partition(msgspec.Struct, frozen=True):
    """Of the table of events. until_us: when its last event was written; 0: that is not in the log yet."""

    name: str
    first: int
    last: int
    until_us: int
    pending: bool = False
    """its detaching was begun, and not ended"""


class Marks(msgspec.Struct, frozen=True):
    """How far consumers have come, and of which positions snapshots are."""

    consumers: dict[str, int]
    snapshots: dict[str, int]


def due(partitions: Sequence[Partition], head: int, policy: Policy, now_us: int) -> list[Partition]:
    """The oldest ones, in order. Never the one that holds the log's end."""
    found = []
    for partition in sorted(partitions, key=lambda one: one.first):
        young = policy.keep_days and partition.until_us > now_us - policy.keep_days * DAY_US
        if partition.last >= head or partition.last > head - policy.keep_events or young:
            break
        found.append(partition)
    return found


def obstacles(partition: Partition, marks: Marks, needed: Collection[str]) -> Iterator[str]:
    """Sentences about who would have to read the archive soon. needed: who must have a snapshot."""
    for name, position in sorted(marks.consumers.items()):
        if position < partition.last:
            said = f"consumer {name} is at position {position}, before {partition.last}"
            yield f"{said}: let it catch up, or delete its row in asv.consumers where it is of nobody any more"
    for name in sorted({*needed, *marks.snapshots}):
        position = marks.snapshots.get(name, 0)
        if position < partition.last:
            what = f"the snapshot of {name} is of position {position}" if name in marks.snapshots else f"{name} has no snapshot"
            yield f"{what}, and a start from behind {partition.last} needs one: let the service run until it has taken one"
