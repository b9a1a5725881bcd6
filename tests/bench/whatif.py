"""What-if against reality: a cluster of real processes (simulated hypervisors) is asked what losing a node would do, and then that
node loses its power.

    python -m tests.bench.whatif [--quick] [--json]

Keys: vms (that ran on the node) · placements_equal (of them, so many came to the node that was foretold) · elsewhere (the
others) · foretold_s, real_s (until the last of them ran) · band_s (least and most that was foretold) · within_band (of the VMs, so
many ran at a time within the band) · off_s (of each VM, how far it ran from the band; the worst) · lost_foretold_s, lost_real_s ·
answer_s (how long the answer took).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

from libs.common.clock import SystemClock
from services.cluster.layout import CHECKOUT, NODES
from tests.bench.common import Options, options, report
from tests.chaos.rig import HaCluster, ha_cluster

NODE = NODES[1]
SIZES_MIB = (128, 256, 384)


@dataclass(frozen=True, slots=True)
class Real:
    """Seconds from the loss of power, by the log's clock: until the node was declared lost, and until each VM ran; where."""

    lost_s: float
    ran_s: dict[str, float]
    where: dict[str, str]


def main() -> None:
    wanted = options("what-if against a real loss of power")
    with ha_cluster("--driver", "simulated") as cluster:
        names = begun(cluster, 6 if wanted.quick else 18, wanted)
        since = time.monotonic()
        told = ask(cluster, 5 if wanted.quick else 10)
        answer_s = time.monotonic() - since
        wanted.say(f"answered within {answer_s:.1f} s; now {NODE} loses its power")
        real = lived(cluster, [start["vm"] for start in told["starts"]])
        assert set(real.ran_s) <= set(names)
    compare(told, real, answer_s, wanted)


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


def ask(cluster: HaCluster, tries: int) -> dict[str, Any]:
    """As an operator does."""
    argv = [sys.executable, "-m", "services.cli", "what-if", "--kill", f"node/{NODE}", "--tries", str(tries), "--json"]
    environ = {**os.environ, "ASV_HOME": str(cluster.home), "PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run(argv, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    assert not told["fault"] and told["starts"], told
    return told


def lived(cluster: HaCluster, vms: list[str]) -> Real:
    position, began_us = cluster.position(), SystemClock().now_us()
    cluster.power_off(NODE)

    def ended() -> list[dict[str, Any]] | None:
        events = cluster.events(position)
        ran = {e["data"]["vm"] for e in events if e["type"] == "vm_started"}
        return events if ran >= set(vms) else None

    events = cluster.wait_for(ended, f"{len(vms)} VMs to run elsewhere")
    started = [e for e in events if e["type"] == "vm_started"]
    lost = next(e for e in events if e["type"] == "node_lost")
    return Real(
        (lost["at_us"] - began_us) / 1e6,
        {e["data"]["vm"]: (e["at_us"] - began_us) / 1e6 for e in started},
        {e["data"]["vm"]: e["data"]["node"] for e in started},
    )


def compare(told: dict[str, Any], real: Real, answer_s: float, wanted: Options) -> None:
    off, elsewhere = {}, []
    for start in told["starts"]:
        vm, band = start["vm"], start["after"]
        ran_s = real.ran_s[vm]
        off[vm] = max(0.0, band["least_s"] - ran_s, ran_s - band["most_s"])
        if real.where[vm] != start["node"]:
            elsewhere.append(f"{vm}: {real.where[vm]}, not {start['node']}")
        wanted.say(
            f"  {vm}: foretold on {start['node']} after {band['median_s']:.1f} s ({band['least_s']:.1f} to {band['most_s']:.1f}); "
            f"ran on {real.where[vm]} after {ran_s:.1f} s"
        )
    count = len(told["starts"])
    report(
        vms=count, placements_equal=count - len(elsewhere), elsewhere=elsewhere, foretold_s=told["rto"]["median_s"],
        real_s=round(max(real.ran_s.values()), 3), band_s=[told["rto"]["least_s"], told["rto"]["most_s"]],
        within_band=sum(1 for by in off.values() if not by), off_s=round(max(off.values()), 3),
        lost_foretold_s=told["lost"][0]["after"]["median_s"], lost_real_s=round(real.lost_s, 3), answer_s=round(answer_s, 1),
    )  # fmt: skip


if __name__ == "__main__":
    main()
