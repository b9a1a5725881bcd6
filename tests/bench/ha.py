"""How fast VMs are back, on real processes: agents, watchdogs, QEMU guests, NATS, Postgres of a cluster of its own on this machine.

python -m tests.bench.ha [--quick] [--json] [--long]

power_ms_p50      a node's agent, watchdog and VMs killed at once (SIGKILL, by pid) -> its first VM's QEMU runs on another node;
                  seen from outside: that process is there and its vCPU uses CPU time. Median of 20 runs (quick: 5)
power_ms_p99      the slowest of them
partition_ms_p50  a node's cable pulled (it lives in a network namespace) -> the same; by policy its VMs are asked for through the
                  mailbox on the storage, and its watchdog's word there is the proof. Median of 10 runs (quick: 3)
twenty_vms_ms     a node with 20 VMs killed (simulated driver) -> all of them seen running on other nodes
panic_ms          a guest panics (its vCPU stands still, seen from outside) -> its restart is ordered, by the event's own time;
                  median of 3
hang_s            a guest's kernel dies without telling QEMU -> the verdict, by the event's own time
boot_ids_kept     (--long) everything central stopped for ten minutes: guests whose boot id is what it was, of all

Leases, detection and waits are the cluster's defaults. Two settings are not: the limit on how many nodes are declared lost within
some minutes (runs follow one another faster), and the grace of a guest that has just started, before hangs are looked for.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from typing import Any

from tests.bench import ha_long, ha_nodes
from tests.bench.common import Options, report

PEERS = (
    (
        "Proxmox VE",
        "121 to 123 s from losing a node to its VMs being started (simulated seconds of its own 144 test scenarios)",
    ),
    ("Harvester", "about 63 s"),
    ("OpenStack Masakari", "4 minutes and more by its defaults"),
    ("vSphere HA", "15 s to declare a host dead, restarts after it"),
)
"""published figures of others, on other machines: for orientation"""


def parse() -> tuple[Options, bool]:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.ha", description="how fast VMs are back")
    parser.add_argument("--quick", action="store_true", help="fewer runs")
    parser.add_argument("--json", action="store_true", help="print nothing but the result")
    parser.add_argument("--long", action="store_true", help="only: everything central stopped for ten minutes")
    found = parser.parse_args()
    return Options(found.quick, found.json), found.long


def measure(wanted: Options) -> dict[str, Any]:
    nodes = ha_nodes.measure(wanted, powers=5 if wanted.quick else 20, cuts=3 if wanted.quick else 10)
    twenty_ms = ha_nodes.twenty(wanted)
    return {
        "power_ms_p50": round(statistics.median(nodes.power_ms)),
        "power_ms_p99": round(max(nodes.power_ms)),
        "partition_ms_p50": round(statistics.median(nodes.partition_ms)),
        "twenty_vms_ms": round(twenty_ms),
        "panic_ms": round(statistics.median(nodes.guests.panic_ms)),
        "hang_s": round(nodes.guests.hang_s, 1),
        "cut": "network namespace" if nodes.apart else "cut line (no root: no network namespaces)",
        "doubles": nodes.doubles,
    }


def main() -> None:
    wanted, long = parse()
    figures = ha_long.measure(wanted) if long else measure(wanted)
    if not wanted.json:
        print("the peers, as published by themselves or their users; not measured here:", file=sys.stderr)
        for name, said in PEERS:
            print(f"  {name:20} {said}", file=sys.stderr)
    report(**figures)


if __name__ == "__main__":
    main()
