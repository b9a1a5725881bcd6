"""A long log of a large cluster, for tests.bench.replay: mixed events of 20,000 VMs that the services' own deciders made.

Worlds (libs/world) of 20 VMs on 3 nodes are lived through: people start, stop, move, pause, resize, snapshot, delete and define
VMs, nodes lose power, guests panic. Their logs are laid side by side under other names (`vm-007-12`, `n007-3`), a few events of
each in turn, until the log is as long as it is wanted. Of streams that a cluster has once (`ha-main`) only those of the first are
taken. Positions in `causation` are those of the small worlds: no part of the benchmark follows them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any

import asyncpg
import msgspec

from libs.common.messages import Command, Recorded, encode
from libs.world.play import calm, enter, started
from libs.world.story import Step, Story
from libs.world.world import World
from proto.changes import AttachDisk, DetachDisk
from proto.growth import ResizeVm
from proto.machine import DiskWish
from proto.nodes import CordonNode, UncordonNode
from proto.plan import SetAllotment
from tests.bench.common import Options
from tests.servers import Postgres

WORLDS = 3
VMS, NODES = 20, 3
STEPS = 260
STEP_S = 0.5
BLOCK = 20
"""events of one small cluster before the next has its turn"""
CLUSTERS_MAX = 1000
"""that three digits number"""
MARK = "@@@"
COLUMNS = ("position", "at_us", "version", "v", "stream", "type", "data", "meta", "hash")
STEP_US = 250

DOES = (
    *("start", "stop", "start", "stop", "start", "stop", "migrate", "migrate", "migrate", "pause", "reset", "snapshot"),
    *("guard", "delete", "define", "resize", "attach", "detach", "allot", "cordon", "uncordon", "guest_panic", "power"),
)
SUBS = (
    (re.compile(r"\bvm-(\d+)\b"), rf"vm-{MARK}-\1"),
    (re.compile(r"\bn(\d)\b"), rf"n{MARK}-\1"),
    (re.compile(r"\b(ask|tick)-(\d)"), rf"\1-{MARK}-\2"),
)

@dataclass(frozen=True, slots=True)
class Bench:
    """What the parts of the benchmark work on: a server whose first database holds the log."""

    server: Postgres
    events: int
    worlds: list[list[Template]]
    options: Options


type Template = tuple[str, int, str, int, bytes, bytes]
"""stream, version, type, v, data, meta; with MARK where the number of a cluster goes"""


def world(seed: int) -> World:
    """Lived through. Raises AssertionError where an invariant does not hold."""
    random = Random(f"replay {seed}")
    story = Story(seed=seed, nodes=NODES, vms=VMS, seconds=STEPS * STEP_S + 20, node_mib=49_152, vitals=True, steps=_steps(random))
    lived = started(story)
    enter(lived, story, 0)
    at_us = 500_000
    for _ in range(STEPS // 6):
        lived.net.after(at_us, partial(_ask, lived, random.choice(("resize", "attach", "detach", "allot", "cordon")), random))
        at_us += round(6 * STEP_S * 1e6)
    lived.run_to(story.seconds)
    calm(lived)
    lived.run(20)
    return lived


def _steps(random: Random) -> tuple[Step, ...]:
    found = []
    for n in range(STEPS):
        do, vm = random.choice(DOES), f"vm-{random.randrange(VMS)}"
        at = round(0.5 + n * STEP_S, 3)
        match do:
            case "power":
                if n % 5 == 0:
                    found.append(Step(do, at, f"n{random.randrange(NODES) + 1}", for_s=25.0))
            case "pause":
                found.append(Step(do, at, vm, for_s=2.0))
            case "stop":
                found.append(Step(do, at, vm, more={"deadline_s": 2}))
            case "resize" | "attach" | "detach" | "allot" | "cordon" | "uncordon":
                pass
            case _:
                found.append(Step(do, at, vm))
    return tuple(found)


def _ask(lived: World, do: str, random: Random) -> None:
    vm, node = f"vm-{random.randrange(VMS)}", f"n{random.randrange(NODES) + 1}"
    wished: dict[str, tuple[str, str, Command]] = {
        "resize": ("compute", f"vm-{vm}", ResizeVm(vm=vm, memory_mib=random.choice((512, 768, 1024)))),
        "attach": ("io", f"devices-{vm}", AttachDisk(vm=vm, disk=DiskWish(size_mib=64))),
        "detach": ("io", f"devices-{vm}", DetachDisk(vm=vm, name="disk1")),
        "allot": ("compute", f"vm-{vm}", SetAllotment(vm=vm, cpu_weight=random.choice((50, 100, 200)))),
        "cordon": ("compute", f"node-{node}", random.choice((CordonNode, UncordonNode))(node=node)),
    }  # fmt: skip
    lived.ask(*wished[do])


def _marked(value: Any) -> Any:
    if isinstance(value, str):
        for pattern, new in SUBS:
            value = pattern.sub(new, value)
        return value
    if isinstance(value, list):
        return [_marked(one) for one in value]
    if isinstance(value, dict):
        return {_marked(key): _marked(one) for key, one in value.items()}
    return value


def template(recorded: Recorded) -> Template:
    data, meta = (encode(_marked(msgspec.msgpack.decode(part))) for part in (recorded.data, recorded.meta))
    return _marked(recorded.stream), recorded.version, recorded.type, recorded.v, data, meta


def templates(worlds: int = WORLDS) -> list[list[Template]]:
    """Of each world, in log order."""
    return [[template(r) for r in world(seed).log.read_all_now(0, 1_000_000)] for seed in range(worlds)]


def records(worlds: Sequence[Sequence[Template]], events: int, start_us: int = 1_795_000_000_000_000) -> Iterator[Recorded]:
    """Exactly so many, of as many clusters side by side as that takes."""
    mean = sum(map(len, worlds)) / len(worlds)
    clusters = min(CLUSTERS_MAX, max(1, round(events / mean * 1.03)))
    position, mark = 0, MARK.encode()
    for at in range(0, max(map(len, worlds)), BLOCK):
        for cluster in range(clusters):
            number = f"{cluster:03}"
            raw = number.encode()
            for stream, version, type, v, data, meta in worlds[cluster % len(worlds)][at : at + BLOCK]:
                if cluster and MARK not in stream:
                    continue
                position += 1
                yield Recorded(
                    position, stream.replace(MARK, number), version, type, v, start_us + position * STEP_US,
                    data.replace(mark, raw), meta.replace(mark, raw),
                )  # fmt: skip
                if position == events:
                    return
    raise ValueError(f"the worlds are too short for {events} events: {CLUSTERS_MAX} of them have {position}")


async def fill(dsn: str, worlds: Sequence[Sequence[Template]], events: int) -> None:
    """Straight into the tables of an empty, migrated log: only its reading is measured."""
    connection = await asyncpg.connect(dsn)
    await connection.execute("drop index asv.events_stream")
    rows = ((r.position, r.at_us, r.version, r.v, r.stream, r.type, r.data, r.meta, b"0123456789abcdef")
            for r in records(worlds, events))  # fmt: skip
    await connection.copy_records_to_table("events", schema_name="asv", columns=COLUMNS, records=rows)
    await connection.execute("update asv.log_head set position = $1", events)
    await connection.execute("create index events_stream on asv.events (stream, version)")
    await connection.execute("vacuum (freeze, analyze) asv.events")
    await connection.close()
