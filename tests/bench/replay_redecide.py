"""How fast recorded commands are decided again.

    python -m tests.bench.replay_redecide [--quick] [--json]

The log is of a cluster in the deterministic world (5 nodes, 20 VMs: starts, stops, pauses, migrations, a node that loses
power), written by the production services, and laid end to end under other names until it has 100,000 commands and more. What is
measured is all that is done with what was read: envelopes and commands are decoded and decided, answers and events are written and
compared, states folded. The last line is one JSON object:

    redecide_per_s       commands of all services decided again in a second, by as many processes as there are cores: each takes the
                         whole log and decides the streams of its part, as `asvctl replay` does with a long log. The median of
                         the rounds, by the clock, from the first to start to the last to end
    redecide_core_per_s  the same by one process, in a second of its CPU time
"""

from __future__ import annotations

import gc
import os
import statistics
import time
from bisect import bisect_right
from collections.abc import Callable
from multiprocessing import Queue, get_context
from multiprocessing.synchronize import Barrier

from msgspec.structs import replace

from libs.common.host.service import Service
from libs.common.messages import Command, Recorded, decode_reply, encode
from libs.past.deciding import Code
from libs.past.redecide import Part, Redecider
from libs.past.source import Decided
from libs.world.world import World
from proto.compute import DefineVm, StartVm
from proto.machine import DiskWish
from proto.migration import MigrateVm
from proto.upcasts import DOWNCASTS, UPCASTS
from proto.vms import PauseVm, ResetVm, ResumeVm, StopVm
from services.compute.app import SERVICE as COMPUTE
from services.ha.app import SERVICE as HA
from services.io.app import SERVICE as IO
from services.memory.app import SERVICE as MEMORY
from services.node.drivers.simparams import SimParams
from tests.bench.common import Options, options, report

SERVICES = (COMPUTE, MEMORY, IO, HA)
NAME = "c000"
"""what each name of the cluster begins with"""
NODES, VMS = 5, 20
COMMANDS = 100_000
CHUNK = 1536
ROUNDS, ROUNDS_QUICK = 5, 2
PART_S_MAX = 120.0

type Log = tuple[list[Recorded], list[Decided]]


def story() -> World:
    """Everything that befalls VMs day by day."""
    world = World(7, tuple(f"{NAME}-n{n}" for n in range(NODES)), SimParams(memory_mib=16384), ha=1)
    world.begin()
    world.run(8.0)
    vms = [f"{NAME}-vm-{n}" for n in range(VMS)]

    def ask(*commands: Command, run: float = 4.0) -> None:
        for command in commands:
            world.ask("compute", f"vm-{command.vm}", command)  # type: ignore[attr-defined]
        world.run(run)

    ask(*(DefineVm(vm=vm, memory_mib=512, disks=(DiskWish(image="tiny"),)) for vm in vms))
    ask(*(StartVm(vm=vm) for vm in vms), run=8.0)
    ask(*(PauseVm(vm=vm) for vm in vms[::2]))
    ask(*(ResumeVm(vm=vm) for vm in vms[::2]))
    ask(*(MigrateVm(vm=vm) for vm in vms[::3]), run=10.0)
    ask(*(StopVm(vm=vm) for vm in vms[::4]), run=8.0)
    ask(*(StartVm(vm=vm) for vm in vms[::2]), run=8.0)
    ask(*(ResetVm(vm=vm) for vm in vms[::5]))
    world.agents[f"{NAME}-n1"].power_off()
    world.run(60.0)
    return world


def first(world: World) -> Log:
    kept = [(id, one) for id, one in world.log._commands.items() if one.answer.position]
    decided = [Decided(k.answer.position, k.at_us, id, k.stream, k.payload, k.answer.outcome) for id, k in kept]
    return world.log.read_all_now(0, 10**9), sorted(decided, key=lambda one: one.position)


def laid_end_to_end(log: Log, commands: int) -> Log:
    """The same in streams of other names again and again. Those that are no VM's and no node's (the image, the reserve) are there
    once."""
    events, decided = list(log[0]), list(log[1])
    named, asked = [r for r in log[0] if NAME in r.stream], [d for d in log[1] if NAME in d.stream]
    for number in range(1, -(-commands // len(asked))):
        new = f"c{number:03d}"
        moved = {r.position: n for n, r in enumerate(named, len(events) + 1)}
        events += [
            Recorded(moved[r.position], r.stream.replace(NAME, new), r.version, r.type, r.v, r.at_us, r.data, r.meta)
            for r in named
        ]  # fmt: skip
        decided += [
            Decided(moved[d.position], d.at_us, f"{d.id}.{number}", stream := d.stream.replace(NAME, new), d.payload,
                    encode(replace(decode_reply(d.outcome), stream=stream)))
            for d in asked
        ]  # fmt: skip
    return events, decided


def once(service: Service, log: Log) -> tuple[int, float]:
    """(commands decided, CPU seconds). Raises AssertionError where anything differs: then there is nothing to measure."""
    redecider = Redecider(Code(service, UPCASTS, DOWNCASTS))
    begun = time.process_time()
    return decided_again(redecider, log), time.process_time() - begun


def decided_again(redecider: Redecider, log: Log) -> int:
    events, decided = log
    at = 0
    for start in range(0, len(events), CHUNK):
        chunk = events[start : start + CHUNK]
        upto = bisect_right(decided, chunk[-1].position, lo=at, key=lambda one: one.position)
        redecider.hear(decided[at:upto])
        at = upto
        found = redecider.take(chunk)
        assert found is None, found
    assert redecider.end() is None
    return redecider.counts.decided


def part_once(log: Log, part: Part, start: Barrier, told: Queue[tuple[int, float, float]]) -> None:
    """(commands, when it began and ended), by a clock that all processes have."""
    gc.disable()
    redecider = Redecider(Code(SERVICES, UPCASTS, DOWNCASTS), part=part)
    for rows in log:  # has its own of each page from then on
        for row in rows:
            assert row.stream
    start.wait()
    begun = time.monotonic()
    count = decided_again(redecider, log)
    told.put((count, begun, time.monotonic()))


def at_once(log: Log) -> tuple[int, float]:
    """(commands, seconds) of as many processes as there are cores, forked from this one, which has the log."""
    of, forks = len(os.sched_getaffinity(0)), get_context("fork")
    start, told = forks.Barrier(of), forks.Queue()
    parts = [forks.Process(target=part_once, args=(log, Part(number, of), start, told)) for number in range(of)]
    for process in parts:
        process.start()
    found = [told.get(timeout=PART_S_MAX) for _ in parts]
    for process in parts:
        process.join()
    return sum(count for count, _, _ in found), max(end for _, _, end in found) - min(begun for _, begun, _ in found)


def redecide(commands: int = COMMANDS, rounds: int = ROUNDS, say: Callable[[str], None] = lambda _: None) -> dict[str, float]:
    """{"redecide_per_s": ..., "redecide_core_per_s": ...}"""
    log = laid_end_to_end(first(story()), commands)
    say(f"{len(log[1])} commands, {len(log[0])} events")
    gc.freeze()  # the log itself is no part of what is measured
    rates, together = [], []
    for _ in range(rounds):
        each = {service.name: once(service, log) for service in SERVICES}
        say(", ".join(f"{name} {count / seconds:.0f}/s of {count}" for name, (count, seconds) in each.items()))
        rates.append(sum(count for count, _ in each.values()) / sum(seconds for _, seconds in each.values()))
        count, seconds = at_once(log)
        say(f"  {len(os.sched_getaffinity(0))} processes: {count / seconds:.0f}/s of {count}")
        assert count == sum(count for count, _ in each.values())
        together.append(count / seconds)
    return {"redecide_per_s": round(statistics.median(together)), "redecide_core_per_s": round(statistics.median(rates))}


def figures(wanted: Options) -> dict[str, float]:
    return redecide(COMMANDS // 2 if wanted.quick else COMMANDS, ROUNDS_QUICK if wanted.quick else ROUNDS, wanted.say)


def main() -> None:
    report(**figures(options(__doc__.splitlines()[0] if __doc__ else "")))


if __name__ == "__main__":
    main()
