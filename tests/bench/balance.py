"""The rebalancer beside Ganeti's hbal, on the same clusters in one run: `python -m tests.bench.balance [--quick] [--json]`.

score, hbal_score   imbalance at the end, by hbal's own score and computed by hbal itself for both; mean over the clusters
moves, hbal_moves   migrations to get there; mean over the clusters. Each is the whole plan of one run, by its defaults
score_before        the imbalance that both begin with
wins                clusters on which both the score is no higher and the moves are no more
plan_s, hbal_s      all plans together

Where hbal cannot be had (Debian: apt-get install ganeti-htools), only our own figures are printed, with the score as the policy
computes it; that the two scores agree is checked in each run that has both.
"""

from __future__ import annotations

import time
from pathlib import Path
from statistics import mean

from proto.balance import ClusterLoad, Plan, Rules
from services.compute.balance.plan import plan
from tests.bench.balance_clusters import FULL, QUICK, draw
from tests.bench.balance_hbal import PACKAGE, Hbal, Told, folder
from tests.bench.common import Options, options, report

LOOKS_MAX = 3_000_000
"""A whole plan at once, as hbal makes it; a service looks less far and goes on in the next round."""


def ours(load: ClusterLoad) -> Plan:
    """Our whole plan, once it was checked move by move that each VM fits on both nodes and keeps apart from its group."""
    found = plan(load, Rules(plan_max=1000), looks_max=LOOKS_MAX)
    places = {vm.vm: vm.node for vm in load.vms}
    vms, nodes = {vm.vm: vm for vm in load.vms}, {node.node: node for node in load.nodes}
    for move in found.moves:
        vm, target = vms[move.vm], nodes[move.target]
        there = [vms[other] for other, node in places.items() if node == move.target]
        assert places[move.vm] == move.origin, f"{move.vm} is not on {move.origin}"
        assert sum(v.memory_mib for v in there) + vm.memory_mib <= target.memory_mib, f"{move.vm} does not fit"
        assert sum(v.vcpus for v in there) + vm.vcpus <= target.vcpus_max, f"{move.vm} does not fit"
        assert not (vm.apart and vm.apart in {v.apart for v in there}), f"{move.vm} comes to one of its group"
        places[move.vm] = move.target
    return found


def main() -> None:
    wanted = options("the rebalancer beside Ganeti's hbal")
    with folder() as name:
        hbal = Hbal(Path(name))
        if not hbal.present:
            wanted.say(f"hbal is not installed (apt-get install {PACKAGE}): its keys are left out")
        run(wanted, hbal)


def run(wanted: Options, hbal: Hbal) -> None:
    scores, before, moves, theirs = [], [], [], []
    plan_s = hbal_s = 0.0
    for shape in QUICK if wanted.quick else FULL:
        load = draw(shape)
        began = time.perf_counter()
        mine = ours(load)
        plan_s += time.perf_counter() - began
        moves.append(len(mine.moves))
        said = f"{shape.name}: {mine.score:.3f} → {mine.planned:.3f} in {len(mine.moves)}"
        if hbal.present:
            began = time.perf_counter()
            other = hbal.balance(load)
            hbal_s += time.perf_counter() - began
            score = hbal.score(load, {move.vm: move.target for move in mine.moves})
            agree(mine, other, score)
            theirs.append(other)
            said += f"; hbal → {other.after:.3f} in {len(other.moves)}"
        else:
            score = mine.planned
        scores.append(score)
        before.append(mine.score)
        wanted.say(said)
    figures = {"score": round(mean(scores), 4), "moves": round(mean(moves), 2), "score_before": round(mean(before), 4)}
    if theirs:
        figures |= {
            "hbal_score": round(mean(t.after for t in theirs), 4),
            "hbal_moves": round(mean(len(t.moves) for t in theirs), 2),
            "wins": sum(s <= t.after and m <= len(t.moves) for s, m, t in zip(scores, moves, theirs, strict=True)),
            "hbal_s": round(hbal_s, 2),
        }
    report(**figures, clusters=len(scores), plan_s=round(plan_s, 2))


def agree(mine: Plan, other: Told, score: float) -> None:
    """Both mean the same by the score: hbal's of the beginning and of our end is ours, the term that only we have left out."""
    ours_before, ours_after = mine.score - mine.terms["excess"], mine.planned - mine.planned_terms["excess"]
    for what, a, b in (("before", ours_before, other.before), ("after", ours_after, score)):
        assert abs(a - b) < 1e-4, f"the scores {what} differ: {a:.6f} by the policy, {b:.6f} by hbal"


if __name__ == "__main__":
    main()
