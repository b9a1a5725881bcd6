"""What is common to several trials of one variant: the answer, as data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec

from libs.world.fork.beats import Moment
from libs.world.fork.fork import Fork
from libs.world.fork.timings import Timings, part
from libs.world.whatif.trial import Trial, Use
from libs.world.whatif.variant import Variant
from proto.compute import VmStarted, VmStartFailed, VmStartRequested
from proto.guard import GuardEnded, Mode, VmUnplaced
from proto.lease import NodeLost
from proto.memory import CapacityExceeded
from proto.migration import VmMigrated
from proto.restart import VmRestartDenied
from services.ha.guard import Watch
from services.ha.states import Ha

CANDIDATES_MAX = 4


class Band(msgspec.Struct, frozen=True):
    """Seconds from what was done: over all trials."""

    least_s: float
    median_s: float
    p90_s: float
    most_s: float


class Lost(msgspec.Struct, frozen=True):
    """A node that is declared lost; proof: of which kind."""

    node: str
    proof: str
    after: Band


class Start(msgspec.Struct, frozen=True):
    """A VM that is started. source: where it ran before (empty: nowhere); added: it is one of those that were added. agree: in how
    many trials it came to `node`; elsewhere: where else, how often. candidates: the best, with their scores, of the trial shown."""

    vm: str
    source: str
    node: str
    after: Band
    agree: int
    elsewhere: dict[str, int] = {}
    attempts: int = 1
    added: bool = False
    candidates: dict[str, float] = {}


class Down(msgspec.Struct, frozen=True):
    """A VM that is to run and does not in the end, and why, as the services said it. trials: in how many."""

    vm: str
    source: str
    sentence: str
    trials: int


class Moved(msgspec.Struct, frozen=True):
    vm: str
    source: str
    node: str
    trials: int


class Node(msgspec.Struct, frozen=True):
    """Of the trial shown."""

    node: str
    before: dict[str, Any]
    after: dict[str, Any]


class Answer(msgspec.Struct, frozen=True):
    """rto: until the last VM runs that was lost. refused: settings and moves that were. leave: node -> VMs that would have to leave
    it. meanwhile: VMs that went otherwise before anything was done, as they were in flight. fault: an invariant of the world
    that did not hold: then nothing else counts."""

    variant: str
    position: int
    at_us: int
    tries: int
    lost: tuple[Lost, ...]
    starts: tuple[Start, ...]
    down: tuple[Down, ...]
    moves: tuple[Moved, ...]
    nodes: tuple[Node, ...]
    rto: Band | None
    leave: dict[str, tuple[str, ...]]
    refused: tuple[str, ...]
    meanwhile: tuple[str, ...]
    timings: Timings
    simulated: tuple[str, ...]
    fault: str = ""


def answer(fork: Fork, variant: Variant, timings: Timings, trials: Sequence[Trial]) -> Answer:
    shown, starts, down = trials[0], _starts(trials), _down(trials)
    lost = {start.vm for start in starts if start.source} | {one.vm for one in down if one.source}
    ends = [max(times) for trial in trials if (times := [_s(trial, at) for vm, at in _started(trial).items() if vm in lost])]
    return Answer(
        variant=variant.words, position=fork.slice.position, at_us=fork.slice.at_us, tries=len(trials), lost=_lost(trials),
        starts=starts, down=down, moves=_moves(trials),
        nodes=tuple(Node(name, _use(use), _use(shown.after.get(name, use))) for name, use in sorted(shown.before.items())),
        rto=band(ends) if ends and not any(one.source for one in down) else None,
        leave={e.node: tuple(e.would_go) for _, e in shown.events if isinstance(e, CapacityExceeded)},
        refused=_refused(shown), meanwhile=shown.meanwhile, timings=timings,
        simulated=simulated(fork, timings, variant, [trial.moment for trial in trials]),
        fault=next((trial.fault for trial in trials if trial.fault), ""),
    )  # fmt: skip


def band(times: Sequence[float]) -> Band:
    ordered = sorted(times)
    return Band(*(round(x, 3) for x in (ordered[0], part(ordered, 0.5), part(ordered, 0.9), ordered[-1])))


def _s(trial: Trial, at_us: int) -> float:
    return (at_us - trial.at_us) / 1e6


def _use(use: Use) -> dict[str, Any]:
    return {name: getattr(use, name) for name in Use.__slots__}


def _lost(trials: Sequence[Trial]) -> tuple[Lost, ...]:
    found: dict[tuple[str, str], list[float]] = {}
    for trial in trials:
        for recorded, event in trial.events:
            if isinstance(event, NodeLost):
                found.setdefault((event.node, event.proof.kind.value), []).append(_s(trial, recorded.at_us))
    return tuple(Lost(node, proof, band(times)) for (node, proof), times in sorted(found.items()))


def _started(trial: Trial) -> dict[str, int]:
    """VM -> when it was seen running last."""
    return {e.vm: recorded.at_us for recorded, e in trial.events if isinstance(e, VmStarted) and trial.ends.get(e.vm)}


def _starts(trials: Sequence[Trial]) -> tuple[Start, ...]:
    names = sorted({vm for trial in trials for vm in _started(trial)})
    return tuple(_start(vm, [t for t in trials if vm in _started(t)]) for vm in names)


def _start(vm: str, trials: Sequence[Trial]) -> Start:
    where = Counter(trial.ends[vm] for trial in trials)
    node = min(where, key=lambda name: (-where[name], name))
    shown = next(trial for trial in trials if trial.ends[vm] == node)
    asked = [e for _, e in shown.events if isinstance(e, VmStartRequested) and e.vm == vm]
    best = asked[-1].placement.candidates[:CANDIDATES_MAX] if asked else ()
    return Start(
        vm=vm, source=shown.where.get(vm, ""), node=node, after=band([_s(trial, _started(trial)[vm]) for trial in trials]),
        agree=where[node], elsewhere={name: n for name, n in sorted(where.items()) if name != node}, attempts=max(1, len(asked)),
        added=vm in shown.asked.added, candidates={c.node: round(c.score, 4) for c in best},
    )  # fmt: skip


def _down(trials: Sequence[Trial]) -> tuple[Down, ...]:
    """Those that ran, or were asked for, and do not run."""
    found: dict[str, list[Trial]] = {}
    for trial in trials:
        for vm in sorted({vm for vm, node in trial.where.items() if node} | set(trial.asked.added)):
            if not trial.ends.get(vm):
                found.setdefault(vm, []).append(trial)
    return tuple(Down(vm, ts[0].where.get(vm, ""), _why(ts[0], vm), len(ts)) for vm, ts in sorted(found.items()))


def _why(trial: Trial, vm: str) -> str:
    """The last that any service said of it."""
    kinds = (VmUnplaced, VmRestartDenied, GuardEnded, VmStartFailed)
    said = [event.sentence for _, event in trial.events if isinstance(event, kinds) and event.vm == vm and event.sentence]
    for id, whose in trial.asked.starts.items():
        reply = trial.world.replies.get(id)
        if whose == vm and reply is not None and reply.status != "accepted":
            said.append(reply.sentence)
    if said:
        return said[-1]
    return _standing(trial, vm) or "nothing was said of it"


def _standing(trial: Trial, vm: str) -> str:
    """Why nobody has tried it, as far as ha's states say."""
    host, node = trial.world.services["ha"].host, trial.where.get(vm, "")
    states = host.states() if host is not None else {}
    guard, main = states.get(f"guard-{vm}"), states.get("ha-main")
    if isinstance(guard, Watch) and guard.owed is not None:
        return guard.owed.sentence or "it waits for its turn"
    if isinstance(guard, Watch) and guard.guard.mode is Mode.OFF:
        return "its guard is off: nothing starts it by itself"
    if isinstance(main, Ha) and (main.held or not main.armed):
        return f"high availability concludes nothing: {main.held or main.reason or 'it is disarmed'}"
    lost = any(isinstance(event, NodeLost) and event.node == node for _, event in trial.events)
    off = node in trial.after and not trial.after[node].up
    return f"{node} was not declared lost: nobody may start it elsewhere" if off and not lost else ""


def _moves(trials: Sequence[Trial]) -> tuple[Moved, ...]:
    found: Counter[tuple[str, str, str]] = Counter()
    for trial in trials:
        found.update({(event.vm, event.source, event.node) for _, event in trial.events if isinstance(event, VmMigrated)})
    return tuple(Moved(*key, n) for key, n in sorted(found.items()))


def _refused(trial: Trial) -> tuple[str, ...]:
    said = []
    for id, what in {**trial.asked.settings, **{id: f"the move of {vm}" for id, vm in trial.asked.moves.items()}}.items():
        reply = trial.world.replies.get(id)
        if reply is None or reply.status != "accepted":
            said.append(f"{what}: {reply.sentence if reply else 'no answer'}")
    return tuple(said)


def simulated(fork: Fork, timings: Timings, variant: Variant, moments: Sequence[Moment]) -> tuple[str, ...]:
    """What is not this cluster's own, in sentences."""
    start = timings.start
    learnt = (
        f"a start takes {start.low_ms:.0f} to {start.p90_ms:.0f} ms, as the newest {start.known} of this log did (p10 to p90)"
        if start.known
        else f"a start takes {start.low_ms:.0f} to {start.p90_ms:.0f} ms, a default: this log holds none"
    )
    said = [
        "the services' own deciders and policies ran, on a copy of the log; nothing was written to it",
        "nodes, disks, network and time are simulated: messages take 0.2 to 2 ms, commits 0.3 to 3 ms, beats come once a second",
        learnt,
        "no guest's boot is counted: the log does not hold when a guest is of use again",
        "load is not in the log: guests are taken to be idle, to use half of their memory, and pools to have room",
    ]
    if Moment.LATE in moments:
        ends = f"starts take {start.least_ms:.0f} ms in the one, {start.most_ms:.0f} ms in the other"
        said.insert(3, f"in two trials every beat falls so that the fault is noticed as early, or as late, as can be; {ends}")
    if (before := timings.recovery) is not None:
        took = f"{before.median_ms / 1000:.1f} s in the median of {before.known}, {before.p90_ms / 1000:.1f} s at p90"
        said.append(f"for comparison: recoveries in this log took {took}, counted from when the VM was known to be lost")
    killed = {name for kind, name in variant.kills if kind == "node"}
    for machine in fork.machines:
        can = machine.member.capabilities
        if machine.name in killed and can.control_plane and can.share == 1:
            said.append(f"{machine.name} runs the control plane: it is taken to go on elsewhere at once")
    return (*said, *(f"{one}: it is taken to have no power" if "reached" not in one else one for one in fork.assumed))

