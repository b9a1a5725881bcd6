"""A fork: the state of every service at a position, folded once, and worlds that go on from there."""

from __future__ import annotations

from libs.common.host.service import Service
from libs.memory.prove import Proof
from libs.world.control import Kept
from libs.world.decoding import registries
from libs.world.fencing import Bmc
from libs.world.fork import backups, guests, machines
from libs.world.fork.beats import SECOND_US, Beats, Moment, beats
from libs.world.fork.copied import copied
from libs.world.fork.folded import folded, states
from libs.world.fork.slices import CannotFork, Slice
from libs.world.world import World
from services.compute.app import SERVICE as COMPUTE
from services.ha.app import SERVICE as HA
from services.ha.fencing.states import Fence
from services.ha.grantor import TICK_US
from services.ha.states import Ha, LeaseState, Lost
from services.io.app import SERVICE as IO
from services.memory.app import SERVICE as MEMORY
from services.node.drivers.simparams import SimParams

SERVICES: tuple[Service, ...] = (COMPUTE, MEMORY, IO, HA)
NODES_MAX = 128


class Fork:
    """states: of all streams; machines: the nodes; assumed: sentences about what the log does not say. Raises CannotFork."""

    def __init__(self, slice: Slice) -> None:
        self.slice = slice
        marks = copied(slice, [s.name for s in SERVICES], lambda: slice.at_us)
        self.marks = {s.name: marks.consumer_position_now(s.name) for s in SERVICES}
        self.hosts = {s.name: folded(s, slice.events, self.marks[s.name]) for s in SERVICES}
        self.states = states(self.hosts)
        self.machines = machines.machines(self.states)
        self.assumed = [m.dark or m.cut for m in self.machines if m.dark or m.cut]
        if not self.machines:
            raise CannotFork("no node has reported by then: there is nothing that could run")
        if len(self.machines) > NODES_MAX:
            raise CannotFork(f"the cluster has {len(self.machines)} nodes, and a fork has at most {NODES_MAX}")

    def world(self, seed: int = 0, times: SimParams | None = None) -> World:
        """One that has not begun: `begin`."""
        slice, names = self.slice, [m.name for m in self.machines]
        world = World(seed, names, times or SimParams(), services=SERVICES[:3], ha=1, start_us=slice.at_us)
        world.grantor_us = TICK_US
        world.incarnation = slice.incarnation
        world.log = copied(slice, self.marks, lambda: world.net.now_us)
        world.oldest = world.seen = slice.position
        guests.stored(world.pool, self.states)
        for machine in self.machines:
            machines.put(world, machine, times or SimParams(), slice.incarnation)
        versions = {name: slot.version for host in self.hosts.values() for name, slot in host.slots.items()}
        if wrong := guests.running(world, self.states, versions, slice.incarnation):
            raise CannotFork(f"the recorded processes cannot all be: {'; '.join(wrong[:3])}")
        world.areas = machines.areas(world)
        self._watched(world)
        for name, process in world.services.items():
            process.life = slice.position
            process.started(Kept(slice.incarnation, slice.position, self.hosts[name]))
        self._known(world)
        return world

    def _watched(self, world: World) -> None:
        for name, node in world.agents.items():
            if (plan := self.states.get(f"plan-{name}")) is not None:
                guests.scheduled(node, plan)
            fence = self.states.get(f"fence-{name}")
            if isinstance(fence, Fence) and fence.device is not None:
                world.bmcs[name] = Bmc(node, fence.identity)

    def _known(self, world: World) -> None:
        """The invariants are looked at from here on."""
        checker, position = world.checker, self.slice.position
        checker.position = checker.known = position
        for recorded in self.slice.events:
            checker.versions[recorded.stream] = recorded.version
        checker.proof = self._proof()
        backups.told(checker.backups, self.slice.events)
        for stream, state in self.states.items():
            kind, _, name = stream.partition("-")
            if kind == "vm":
                checker.generations[name] = state.highest
            elif kind == "lease" and isinstance(state, LeaseState):
                checker.nodes.epochs[name] = state.epoch if isinstance(state, Lost) else state.epoch - 1
            elif isinstance(state, Ha):
                checker.nodes.term = state.term

    def _proof(self) -> Proof:
        """What every ledger has promised; faults of the past are none of the fork's."""
        proof, events = Proof(), registries(MEMORY)[1]
        for recorded in self.slice.events:
            if recorded.stream.startswith("ledger-"):
                proof.look(recorded.position, events.event(recorded))
        proof.faults.clear()
        proof.faults_count = 0
        return proof


def begin(world: World, fall: Beats | None = None) -> None:
    """Control plane, watchdogs and agents go on: these in the first second, those in the next, by chance if it is not said when."""
    fall = fall or beats(Moment.CHANCE, world.random, world.agents)
    world.relay.begin()
    for process in world.services.values():
        process.begin()
    for name, node in world.agents.items():
        if node.powered:
            if node.leased:
                world.net.after(fall.watchdogs[name], node.watchdog.begin)
            world.net.after(SECOND_US + fall.agents[name], node.begin)
