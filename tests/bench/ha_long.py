"""Everything central stopped for ten minutes: log, bus, services, gateway. Guests run on, and nobody starts any of them again."""

from __future__ import annotations

import time
from typing import Any

from tests.bench.common import Options
from tests.chaos.rig import HaCluster, ha_cluster
from tests.chaos.sampler import Sampler

VMS = ("long-1", "long-2", "long-3")
STOPPED_S = 600.0


def measure(wanted: Options, stopped_s: float = STOPPED_S) -> dict[str, Any]:
    with ha_cluster() as cluster, Sampler(cluster.home, 0.1) as sampler:
        for vm in VMS:
            cluster.create(vm)
        before = {vm: cluster.boot_id(vm) for vm in VMS}
        wanted.say(f"everything central is stopped for {stopped_s:.0f} s")
        with cluster.without_central():
            time.sleep(stopped_s)  # how long it is away is what is tried
        cluster.wait_for(lambda: well(cluster), "the cluster to be well again", 120.0)
        after = {vm: cluster.boot_id(vm) for vm in VMS}
        copies = {vm: sum(life.copy.vm == vm for life in sampler.watch.lives.values()) for vm in VMS}
    kept = sum(after[vm] == before[vm] for vm in VMS)
    return {"boot_ids_kept": kept, "guests": len(VMS), "processes": sum(copies.values()), "stopped_s": stopped_s}


def well(cluster: HaCluster) -> bool:
    nodes = cluster.call("GET", "/v1/nodes")["items"]
    return all(node["online"] for node in nodes) and all(
        cluster.call("GET", f"/v1/vms/{vm}")["state"] == "running" for vm in VMS
    )
