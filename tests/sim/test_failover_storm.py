"""Nodes burn, and somebody says so, while services and agents die, VMs start, stop, move and crash, and messages are late: at every
step no VM has two processes, and in the end each runs that nobody stopped."""

from __future__ import annotations

from random import Random

import pytest

from libs.common.messages import NodeId
from libs.world.control import HostProcess, RelayProcess
from libs.world.faults import heal
from libs.world.net import Weather
from libs.world.nodes import NodeProcess
from proto.compute import StartVm, StopVm
from proto.lease import ConfirmOff, ReportReturned
from proto.migration import MigrateVm
from services.compute.states import Running, Stopped
from tests.sim.test_failover import Cluster, _envelope

NODES = ("n1", "n2", "n3", "n4")
VMS = tuple(f"vm-{n}" for n in range(6))
STORM_S = 25


class Storm:
    def __init__(self, seed: int) -> None:
        self.random = Random(f"failover {seed}")
        self.cluster = Cluster(seed, nodes=NODES)
        self.world = self.cluster.world
        self.stopped: set[str] = set()
        self.epochs = dict.fromkeys(NODES, 1)
        self.burnt: set[str] = set()

    def run(self) -> None:
        for n, vm in enumerate(VMS):
            self.cluster.vm(vm, NODES[n % len(NODES)], memory_mib=256)
        self.world.net.weather = Weather(late=0.05, lost=0.08, twice=0.08)
        for _ in range(self.random.randrange(10, 22)):
            at_us = self.random.randrange(STORM_S * 1_000_000)
            self.world.net.after(at_us, self.random.choice((self.wish, self.wish, self.die, self.die, self.crash, self.burn)))
        self.world.run(STORM_S + 2)
        heal(self.world)
        for node in sorted(self.burnt):
            self.back(node)
        self.world.run(150.0)

    # --- what befalls it ----------------------------------------------------------------------------------------------

    def wish(self) -> None:
        vm = self.random.choice(VMS)
        match self.random.randrange(4):
            case 0:
                self.stopped.add(vm)
                self.world.ask("compute", f"vm-{vm}", StopVm(vm=vm, deadline_s=self.random.choice((0, 5))))
            case 1:
                self.stopped.discard(vm)
                self.world.ask("compute", f"vm-{vm}", StartVm(vm=vm))
            case _:
                self.world.ask("compute", f"vm-{vm}", MigrateVm(vm=vm))

    def die(self) -> None:
        processes: list[HostProcess | RelayProcess | NodeProcess] = [
            *self.world.services.values(), self.world.relay, *self.world.agents.values()
        ]  # fmt: skip
        process = self.random.choice(processes)
        process.crash()
        self.world.net.after(self.random.randrange(200_000, 3_000_000), process.begin)

    def crash(self) -> None:
        node = self.world.agents[self.random.choice(NODES)]
        running = sorted(vm for vm, sim in node.host.vms.items() if not sim.starting and sim.status == "running")
        if running and node.powered:
            node.host.crash(running[0], self.world.net.now_us)
            node.watch()

    def burn(self) -> None:
        """At most two at once. Sooner or later somebody says so, and never before it is so; and it may come back."""
        node = self.random.choice(NODES)
        if node in self.burnt or len(self.burnt) > 1:
            return
        self.burnt.add(node)
        self.world.agents[node].power_off()
        said = ConfirmOff(node=node, reason="it burnt", known=True)
        after_us = self.random.randrange(10_000, 4_000_000)
        self.world.net.after(after_us, lambda: self.told(node, said))
        if self.random.random() < 0.5:
            self.world.net.after(after_us + self.random.randrange(500_000, 8_000_000), lambda: self.back(node))

    def told(self, node: str, said: ConfirmOff) -> None:
        self.world.ask("ha", f"lease-{node}", said)

    def back(self, node: str) -> None:
        """It has power again, ended what is no longer its own (nothing outlives a power loss), and says so until it is heard."""
        self.world.agents[node].power_on()
        self.returned(node)

    def returned(self, node: str) -> None:
        lost = [event for event in self.cluster.decoded("node_lost") if event.node == node]
        back = [event for event in self.cluster.decoded("node_returned") if event.node == node]
        if len(lost) > len(back):
            fact = ReportReturned(node=NodeId(node), boot_id=f"{node}-{len(lost)}", epoch=lost[-1].epoch)
            self.world.services["ha"].command(_envelope(fact, f"{node}"), node, "", lambda reply: None)
        if len(lost) > len(back) or not lost:
            self.world.net.after(500_000, lambda: self.returned(node))
        else:
            self.burnt.discard(node)


@pytest.mark.parametrize("seed", range(9500, 9508))
def test_no_vm_runs_twice_and_each_runs_that_nobody_stopped(seed: int) -> None:
    storm = Storm(seed)
    storm.run()
    cluster = storm.cluster
    for vm in VMS:
        state = cluster.state(vm)
        asked = [r.type for r in cluster.events("vm_start_requested", "vm_stop_requested") if r.stream == f"vm-{vm}"]
        if vm not in storm.stopped and asked[-1] == "vm_start_requested":  # a start while it was being stopped was refused
            ended = [r for r in cluster.events("guard_ended") if r.stream == f"guard-{vm}"]
            assert isinstance(state, Running) or ended, f"{vm} is {state}"
        if isinstance(state, Stopped):
            assert not any(vm in agent.host.vms for agent in storm.world.agents.values())
    storm.world.checker.settled()
