"""Fault schedules from a seed: what breaks when, what users do meanwhile, and then peace.

    story(seed) -> World    has run, was healed, has settled and was checked

Processes die and come back, nodes lose power or are cut off, VMs crash, the log goes away, messages are late (far beyond every
time-out), lost and repeated. Users define, start, stop, reset, pause, resume, migrate and delete all the while.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

from libs.common.messages import Command
from libs.world.net import Weather
from libs.world.world import World
from proto.compute import DefineVm, DeleteVm, PauseVm, ResetVm, ResumeVm, SetAllotment, StartVm, StopVm
from proto.machine import DiskWish, NicWish, Priority
from proto.migration import CancelMigration, MigrateVm
from services.node.drivers.simparams import SimParams

PREPARE_S = 6.0
LOST_EVENTS_MAX = 80
DIMM = 0.3
"""of the faults of a tight storm"""
PEACE_S = 90.0
"""long enough for every repetition (at most 10 s apart), time-out and deadline to have passed"""
PEACE_TIGHT_S = 180.0
"""and for all that ladders took to be given back"""


@dataclass(frozen=True, slots=True)
class Storm:
    """How bad it gets: seconds of trouble, faults and user commands in it, VMs, the network's chances."""

    seconds: float = 40.0
    faults: int = 12
    commands: int = 40
    vms: int = 4
    late: float = 0.1
    lost: float = 0.1
    twice: float = 0.1
    commit_us: tuple[int, int] = (300, 150_000)
    tight: bool = False
    """nodes are small and their guests' needs swing, so that ladders go"""
    migrations: int = 4
    """how many of every dozen other commands are migrations, as it were"""
    fills: int = 0
    """how often a pool is full for a while, with guests that write"""


def story(seed: int, storm: Storm | None = None, locking: bool = True, restores: int = 0, apart: bool = False) -> World:
    """Raises AssertionError, which names the seed, when an invariant does not hold. locking: False takes the storage's own lock
    away, so that orders and generations alone must keep a VM from running twice. restores: how often the database is restored
    from a backup that is up to LOST_EVENTS_MAX events old. apart: each node has a pool of its own, so that disks move too."""
    storm = storm or Storm()
    random = Random(f"storm {seed}")
    params = SimParams(start_fails=0.05, start_hangs=0.02, hang_us=5_000_000, ignores_shutdown=0.1, memory_mib=4096, move_fails=0.1)
    calm = SimParams()
    if storm.tight:
        params = replace(params, memory_mib=3072, swap_mib=512, balloon=True)
        calm = replace(calm, memory_mib=3072, swap_mib=512, balloon=True)
    world = World(seed, params=params, apart=apart)
    world.uses |= {f"vm-{n}": _swings(n) for n in range(storm.vms if storm.tight else 0)}
    world.begin()
    for pool in (world.pool, *world.pools.values()):
        pool.locking = locking
    world.run(PREPARE_S)
    for n in range(storm.vms if storm.tight else storm.vms // 2):
        vm, size = f"vm-{n}", 1536 if storm.tight else 512
        define = DefineVm(vm=vm, memory_mib=size, disks=_disks(world, n), priority=_class(n, storm))
        world.ask("compute", f"vm-{vm}", define)
        world.net.after(500_000, _asker(world, StartVm(vm=vm), vm))
    world.run(1.0)
    world.net.weather = Weather(late=storm.late, lost=storm.lost, twice=storm.twice, commit_us=storm.commit_us)
    for _ in range(storm.commands):
        _later(world, random, storm.seconds, _command(world, random, storm))
    for _ in range(storm.faults):
        dimm = storm.tight and random.random() < DIMM
        _later(world, random, storm.seconds, _dimm(world, random) if dimm else _fault(world, random))
    for _ in range(storm.fills):
        _later(world, random, storm.seconds, _fill(world, random))
    for _ in range(restores):
        _later(world, random, storm.seconds, _restore(world, random, world.log.head_now().position))
    world.run(storm.seconds)
    heal(world, calm)
    world.run(PEACE_TIGHT_S if storm.tight else PEACE_S)
    world.checker.settled()
    return world


def heal(world: World, calm: SimParams | None = None) -> None:
    """All is well from now on."""
    world.net.weather = Weather()
    world.uses = dict.fromkeys(world.uses, _little)
    world.net.cut.clear()
    world.log.available = True
    for agent in world.agents.values():
        agent.memory.free()
        agent.host.params = calm or SimParams()
        agent.power_on()
        agent.begin()
    for process in world.services.values():
        process.begin()
    world.relay.begin()
    for pool in world.pools.values():
        pool.free_mib = pool.size_mib


def _class(n: int, storm: Storm) -> Priority:
    return list(Priority)[n % len(Priority)] if storm.tight else Priority.NORMAL


def _dimm(world: World, random: Random) -> Callable[[], None]:
    """A node loses a part of its memory, and has it again later."""
    memory, mib = world.agents[random.choice(sorted(world.agents))].memory, random.choice((256, 512))

    def fail() -> None:
        memory.lose(mib)
        world.net.after(random.randrange(5_000_000, 30_000_000), lambda: memory.lose(-mib))

    return fail


def _fill(world: World, random: Random) -> Callable[[], None]:
    """A pool is full, its guests write, and it has room again later; when one goes on may be at a bad moment."""
    pool = world.pools[random.choice(sorted(world.pools))]

    def free() -> None:
        pool.free_mib = pool.size_mib

    def full() -> None:
        pool.free_mib = 0
        for node in (node for node in world.agents.values() if node.host.pool is pool):
            for vm in sorted(node.host.vms):
                node.host.write(vm, world.net.now_us)
            node.watch()
        world.net.after(random.randrange(1_000_000, 10_000_000), free)

    return full


def _little(second: int) -> int:
    return 100


def _swings(n: int) -> Callable[[int], int]:
    """Between 100 and 1900 MiB and back within a minute; each VM at its own time."""
    return lambda second: 100 + 60 * abs((second + 17 * n) % 60 - 30)


def _later(world: World, random: Random, seconds: float, thunk: Callable[[], None]) -> None:
    world.net.after(random.randrange(round(seconds * 1e6)), thunk)


def _disks(world: World, n: int) -> tuple[DiskWish, ...]:
    """Where nodes have pools of their own, every other VM's disk stands on an image that one of them has, the rest on nothing."""
    blank = len({pool.id for pool in world.pools.values()}) > 1 and n % 2
    return (DiskWish(size_mib=64) if blank else DiskWish(image="tiny"),)


def _command(world: World, random: Random, storm: Storm) -> Callable[[], None]:
    n = random.randrange(storm.vms)
    vm = f"vm-{n}"
    sizes = (1024, 2048) if storm.tight else (256, 1024, 2048)
    define = DefineVm(vm=vm, memory_mib=random.choice(sizes), disks=_disks(world, n), nics=(NicWish(),))
    start, stop = StartVm(vm=vm), StopVm(vm=vm, deadline_s=random.choice((0, 2, 5)))
    kinds: list[Command] = [
        define, define, define, start, start, start, stop, stop, PauseVm(vm=vm), ResumeVm(vm=vm), ResetVm(vm=vm), DeleteVm(vm=vm),
        SetAllotment(vm=vm, cpu_cap_pct=random.choice((0, 25, 100)), priority=random.choice(list(Priority))),
        *([MigrateVm(vm=vm, deadline_s=5)] * storm.migrations), *([CancelMigration(vm=vm)] * (storm.migrations // 2)),
    ]  # fmt: skip
    if storm.tight:
        kinds += [SetAllotment(vm=vm, memory_reserved_mib=random.choice((64, 200, 256)))] * 3
    return _asker(world, random.choice(kinds), vm)


def _asker(world: World, command: Command, vm: str) -> Callable[[], None]:
    def ask() -> None:
        world.ask("compute", f"vm-{vm}", command)

    return ask


def _restore(world: World, random: Random, oldest: int) -> Callable[[], None]:
    """oldest: no backup is older, so that all nodes are known to it."""
    lost = random.randrange(LOST_EVENTS_MAX)
    return lambda: world.restore(max(oldest, world.checker.position - lost))


def _fault(world: World, random: Random) -> Callable[[], None]:
    back_us = random.randrange(200_000, 8_000_000)
    node = world.agents[random.choice(sorted(world.agents))]
    process = world.services[random.choice(sorted(world.services))]
    net = world.net

    def crash_service() -> None:
        process.crash()
        net.after(back_us, process.begin)

    def crash_relay() -> None:
        world.relay.crash()
        net.after(back_us, world.relay.begin)

    def crash_agent() -> None:
        node.crash()
        net.after(back_us, node.begin)

    def power() -> None:
        node.power_off()
        net.after(back_us, node.power_on)

    def cut() -> None:
        net.cut.add(node.name)
        net.after(back_us, lambda: net.cut.discard(node.name))

    def no_bus() -> None:
        net.cut.add("bus")
        net.after(back_us, lambda: net.cut.discard("bus"))

    def no_log() -> None:
        world.log.available = False

        def there() -> None:
            world.log.available = True

        net.after(back_us, there)

    def crash_vm() -> None:
        running = sorted(vm for vm, sim in node.host.vms.items() if not sim.starting)
        if running and node.powered:
            node.host.crash(running[0], net.now_us)
            node.watch()

    return random.choice([crash_service, crash_service, crash_relay, crash_agent, power, cut, no_bus, no_log, crash_vm])
