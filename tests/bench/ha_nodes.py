"""What becomes of a node's VMs when it loses its power, or its network."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from services.cluster.layout import NODES
from tests.bench import ha_guests
from tests.bench.common import Options
from tests.bench.ha_guests import Guests
from tests.chaos.rig import HaCluster, ha_cluster
from tests.chaos.sampler import Life, Sampler

VM = "first"
MANY = 20
LOOK_S = 0.01
BACK_S_MAX = 60.0


@dataclass(slots=True)
class Nodes:
    guests: Guests
    apart: bool
    power_ms: list[float] = field(default_factory=list)
    partition_ms: list[float] = field(default_factory=list)
    doubles: int = 0


def measure(wanted: Options, powers: int, cuts: int) -> Nodes:
    wanted.say("bringing up a cluster whose nodes are apart")
    with ha_cluster("--apart") as cluster, Sampler(cluster.home, LOOK_S) as sampler:
        cluster.free_hand()
        cluster.create(VM)
        cluster.until(VM, "running")
        found = Nodes(Guests(), cluster.apart())
        for _ in range(powers):
            found.power_ms.append(once(cluster, sampler, cluster.power_off))
            wanted.say(f"  power lost: runs elsewhere after {found.power_ms[-1]:.0f} ms")
        for _ in range(cuts):
            found.partition_ms.append(once(cluster, sampler, lambda node: pull(cluster, node)))
            wanted.say(f"  cable pulled: runs elsewhere after {found.partition_ms[-1]:.0f} ms")
        found.doubles = len(sampler.watch.doubles)
        ha_guests.measure(cluster, sampler, found.guests, wanted)
    return found


def pull(cluster: HaCluster, node: str) -> float:
    began = time.monotonic()
    cluster.lab("cut", node)
    return began


def once(cluster: HaCluster, sampler: Sampler, fault: Callable[[str], float]) -> float:
    """Milliseconds from the fault until the VM's process runs on another node. Then all is healed, and waited for."""
    node = str(cluster.until(VM, "running")["node"])
    began = fault(node)
    life = cluster.wait_for(
        lambda: sampler.ask(lambda watch: elsewhere(watch.now(VM), node)), f"{VM} elsewhere", BACK_S_MAX
    )
    cluster.lab("heal", node)
    cluster.returned()
    return (life.running_s - began) * 1000


def elsewhere(lives: list[Life], node: str) -> Life | None:
    return next((life for life in lives if life.copy.node != node and life.running_s), None)


def twenty(wanted: Options) -> float:
    """Milliseconds until all VMs of a node are seen running on others."""
    wanted.say(f"bringing up simulated nodes; {MANY} VMs on one of them")
    names = [f"many-{number}" for number in range(MANY)]
    with ha_cluster("--driver", "simulated") as cluster:
        for name in names:
            cluster.create(name, NODES[0], image="")
        cluster.wait_for(lambda: on(cluster, names, {NODES[0]}), f"{MANY} VMs on {NODES[0]}")
        began = cluster.power_off(NODES[0])
        cluster.wait_for(lambda: on(cluster, names, set(NODES[1:])), f"{MANY} VMs elsewhere")
        took_ms = (time.monotonic() - began) * 1000
    wanted.say(f"  all {MANY} run elsewhere after {took_ms:.0f} ms")
    return took_ms


def on(cluster: HaCluster, names: list[str], nodes: set[str]) -> bool:
    shown = {vm["name"]: vm for vm in cluster.call("GET", "/v1/vms")["items"]}
    return all(shown[name]["state"] == "running" and shown[name]["node"] in nodes for name in names)
