"""Placement: how fast, and how well it packs: `python -m tests.bench.placement [--nodes N] [--trace FILE] [--quick] [--json]`.

per_s, p99_ms           decisions on N nodes (1,000) per second of CPU time while the trace comes and goes: departures, facts,
                        choice, record
growth_10x              time per decision on ten times the nodes, by that on N (at most 10)
record_bytes            a recorded choice, mean
committed_per_s         the same through enrich, decider and an append to the in-memory log
above_bound_pct         hosts above the lower bound on which no VM is turned away; mean over 8 tenant slices
bestfit_above_bound_pct the same of best-fit
empty_hosts_gain_pts    empty hosts on 1.16 x the bound, in points above best-fit's; mean over the slices, _min the worst of them.
                        Lifetimes are learnt while the trace goes by, from nothing but what it has shown
first_, worst_          the other rules: empty hosts in points against best-fit's
speedup_vs_hail         Ganeti's hail on the same open nodes and VMs, its process start taken off, by our mean time there

The policy is the production one with the weights `pack`. Quick: all slices for empty hosts and for hosts above the bound (the
two other rules on two slices), fewer timed decisions, N and 10 N alike.
"""

from __future__ import annotations

import argparse
import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import mean
from typing import Any

from tests.bench import placement_trace as traces
from tests.bench.common import Options, report
from tests.bench.placement_speed import HAIL, committed_per_s, decide, hail_ms

TRACE = Path("../shared/data/azure-v1/azure_v1_dev.csv.gz")
OTHER_SLICES_QUICK = 2
Asked = tuple[str, int, str]
_slices: list[list[traces.Arrival]] = []


def arguments() -> tuple[Options, int, Path]:
    parser = argparse.ArgumentParser(description="placement: speed, records and packing")
    parser.add_argument("--nodes", type=int, default=1000, help="nodes on which decisions are timed")
    parser.add_argument("--trace", type=Path, default=TRACE, help="columns arrive_s, batch, vcpu, mem_gb, life_s")
    parser.add_argument("--quick", action="store_true", help="fewer timed decisions; two slices for the other rules")
    parser.add_argument("--json", action="store_true", help="print nothing but the result")
    found = parser.parse_args()
    if not 2 <= found.nodes <= 10_000:
        raise SystemExit(f"--nodes {found.nodes}: from 2 to 10000")
    return Options(found.quick, found.json), found.nodes, found.trace


def measured(asked: Asked) -> float:
    what, slice, policy = asked
    trace = _slices[slice]
    lowest = traces.bound(trace)
    if what == "empty":
        return traces.empty_share(trace, lowest, policy)
    return traces.hosts_needed(trace, lowest, policy) / lowest - 1


def packing(wanted: Options) -> dict[str, float]:
    """All slices at once, on all cores."""
    all = [n for n, trace in enumerate(_slices) if trace]
    few = all[:OTHER_SLICES_QUICK] if wanted.quick else all
    asked: list[Asked] = [("hosts", n, "ours") for n in all] + [("empty", n, "ours") for n in all]
    asked += [(what, n, "best") for what in ("hosts", "empty") for n in all]
    asked += [("empty", n, rule) for rule in ("first", "worst") for n in few]
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("fork")) as pool:
        found = dict(zip(asked, pool.map(measured, asked), strict=True))
    for n in all:
        row = [f"{what} {who} {found[what, n, who]:.4f}" for what in ("hosts", "empty") for who in ("ours", "best")]
        wanted.say(f"slice {n}: {', '.join(row)}")
    gains = [100 * (found["empty", n, "ours"] - found["empty", n, "best"]) for n in all]
    others = {
        f"{rule}_empty_gain_pts": round(
            mean(100 * (found["empty", n, rule] - found["empty", n, "best"]) for n in few), 2
        )
        for rule in ("first", "worst")
    }
    return {
        "above_bound_pct": round(100 * mean(found["hosts", n, "ours"] for n in all), 3),
        "bestfit_above_bound_pct": round(100 * mean(found["hosts", n, "best"] for n in all), 3),
        "empty_hosts_gain_pts": round(mean(gains), 2),
        "empty_hosts_gain_min_pts": round(min(gains), 2),
        **others,
    }


def speed(wanted: Options, nodes: int, trace: list[traces.Arrival]) -> dict[str, Any]:
    warm, count = (6_000, 4_000) if wanted.quick else (30_000, 20_000)
    per_s, p99_ms, size, cluster = decide(trace, nodes, warm, count)
    far_per_s, far_p99_ms, _, _ = decide(trace, 10 * nodes, warm // 2, count // 4)
    found: dict[str, Any] = {
        "per_s": round(per_s), "p99_ms": round(p99_ms, 3), "record_bytes": round(size),
        "growth_10x": round(per_s / far_per_s, 2), "p99_10x_ms": round(far_p99_ms, 3),
        "committed_per_s": round(committed_per_s(trace, nodes, count // 4)),
    }  # fmt: skip
    if not HAIL.exists():
        wanted.say("hail is not installed (apt-get install ganeti-htools): its ratio is left out")
        return found
    small = min(nodes, 145)
    ours_per_s, _, _, cluster = decide(trace, small, 2_000, 2_000)
    vms = {vm: (cluster.outlook.node_of(str(vm)), trace[vm]) for vm in cluster.lives}
    taken, start = hail_ms(cluster, vms, min(trace, key=lambda a: a.memory_mib), 3)
    found |= {"hail_ms": round(taken, 1), "hail_start_ms": round(start, 1), "hail_nodes": small, "hail_vms": len(vms)}
    return found | {"speedup_vs_hail": round(max(0.0, taken - start) / 1e3 * ours_per_s, 1)}


def main() -> None:
    wanted, nodes, path = arguments()
    trace = traces.read(path)
    _slices.extend(traces.slices(trace))
    figures = speed(wanted, nodes, trace)
    wanted.say(str(figures))
    figures |= packing(wanted)
    report(**figures, nodes=nodes, vms=len(trace))


if __name__ == "__main__":
    main()
