"""What-if against reality: a cluster of real processes (simulated hypervisors) is asked what losing a node would do, and then that
node loses its power.

    python -m tests.bench.whatif [--quick] [--json]

Keys: vms (that ran on the node) · placements_equal (of them, so many came to the node that was foretold) · elsewhere (the
others) · foretold_s, real_s (until the last of them ran) · band_s (least and most that was foretold) · within_band (of the VMs, so
many ran as foretold, at a time within the band) · off_s (of each VM, how far it ran from the band; the worst) · lost_foretold_s,
lost_real_s · same_answer (asked again after it has happened, about the moment before) · answer_s (how long the answer took).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from datetime import datetime
from typing import Any

from libs.common.clock import SystemClock
from services.cluster.layout import CHECKOUT, NODES
from tests.bench.common import Options, options, report
from tests.chaos.rig import HaCluster, ha_cluster

NODE = NODES[1]
SIZES_MIB = (128, 256, 384)
TRIES, TRIES_QUICK = 10, 5


def main() -> None:
    wanted = options("what-if against a real loss of power")
    with ha_cluster("--driver", "simulated") as cluster:
        begun(cluster, 6 if wanted.quick else 18, wanted)
        words = ("--kill", f"node/{NODE}", "--tries", str(TRIES_QUICK if wanted.quick else TRIES))
        since = time.monotonic()
        told = json.loads(ask(cluster, *words, "--json"))
        answer_s = time.monotonic() - since
        wanted.say(f"answered within {answer_s:.1f} s; now {NODE} loses its power")
        when = lived(cluster, [start["vm"] for start in told["starts"]])
        after = ("--at", str(told["position"]), "--lived", when)
        wanted.say(ask(cluster, *words, *after))
        both = json.loads(ask(cluster, *words, *after, "--json"))
    compare(told, both, answer_s)


def begun(cluster: HaCluster, number: int, wanted: Options) -> list[str]:
    wanted.say(f"{number} VMs on {len(NODES)} nodes")
    names = [f"web-{n}" for n in range(number)]
    for n, name in enumerate(names):
        cluster.create(name, NODES[n % len(NODES)], image="", memory_mib=SIZES_MIB[n % len(SIZES_MIB)])

    def all_run() -> bool:
        shown = {vm["name"]: vm["state"] for vm in cluster.call("GET", "/v1/vms")["items"]}
        return all(shown[name] == "running" for name in names)

    cluster.wait_for(all_run, f"{number} VMs to run")
    cluster.wait_for(cluster.leased, "each node to have its lease")
    return names


def ask(cluster: HaCluster, *words: str) -> str:
    """As an operator does."""
    argv = [sys.executable, "-m", "services.cli", "what-if", *words]
    environ = {**os.environ, "ASV_HOME": str(cluster.home), "PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run(argv, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def lived(cluster: HaCluster, vms: list[str]) -> str:
    """When it lost its power. They all run elsewhere then."""
    position, began_us = cluster.position(), SystemClock().now_us()
    cluster.power_off(NODE)

    def all_ran() -> bool:
        return {e["data"]["vm"] for e in cluster.events(position) if e["type"] == "vm_started"} >= set(vms)

    cluster.wait_for(all_ran, f"{len(vms)} VMs to run elsewhere")
    return datetime.fromtimestamp(began_us / 1e6).astimezone().isoformat()


def compare(told: dict[str, Any], both: dict[str, Any], answer_s: float) -> None:
    real = both["lived"]
    others = [one for one in real["fates"] if one["real_node"] != one["node"]]
    lost, lost_s = real["lost"][NODE]
    report(
        vms=len(real["fates"]), placements_equal=real["placed"],
        elsewhere=[f"{one['vm']}: {one['real_node']}, not {one['node']}" for one in others],
        foretold_s=told["rto"]["median_s"], real_s=max(one["real_s"] for one in real["fates"]),
        band_s=[told["rto"]["least_s"], told["rto"]["most_s"]], within_band=real["within"], off_s=real["worst_s"],
        lost_foretold_s=lost["median_s"], lost_real_s=lost_s, same_answer=both["foretold"] == told, answer_s=round(answer_s, 1),
    )  # fmt: skip


if __name__ == "__main__":
    main()
