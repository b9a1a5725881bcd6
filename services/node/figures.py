"""What an agent counts, for `ask.<node>.metrics`."""

from __future__ import annotations

from collections import Counter, defaultdict

from libs.common.metrics import Durations, Family, Figures, Sample, of_process
from services.node.chores import Chores
from services.node.model import Agent

STATES = ("running", "paused", "shutdown", "panicked", "prelaunch")


class Verbs:
    """Verbs done since the agent began, by outcome, and how long each took in seconds."""

    def __init__(self) -> None:
        self._done: Counter[tuple[str, str]] = Counter()
        self._took: defaultdict[str, Durations] = defaultdict(Durations)

    def note(self, verb: str, failed: bool, took_s: float) -> None:
        self._done[verb, "failed" if failed else "done"] += 1
        self._took[verb].note(took_s)

    def families(self) -> tuple[Family, ...]:
        done = [Sample((("verb", verb), ("outcome", how)), n) for (verb, how), n in sorted(self._done.items())]
        took = [s for verb, durations in sorted(self._took.items()) for s in durations.samples((("verb", verb),))]
        return (
            Family("asv_agent_verbs_total", "counter", "verbs done by the driver, by outcome", tuple(done)),
            Family("asv_agent_verb_seconds", "histogram", "how long a verb took", tuple(took)),
        )


def figures(agent: Agent, chores: Chores, verbs: Verbs, requests_lost: int) -> Figures:
    """requests_lost: reports that no service answered in time; each is repeated."""
    states = Counter(dict.fromkeys(STATES, 0))
    states.update(vm.machine.status for vm in agent.vms.values() if vm.machine)
    unheard = sum(vm.heard < vm.serial for vm in agent.vms.values())
    unheard += sum(entry.fact is not None and not entry.heard for entry in chores.entries.values())
    own = (
        Family(
            "asv_agent_vms", "gauge", "VMs with a process, by state",
            tuple(Sample((("state", state),), n) for state, n in sorted(states.items())),
        ),
        *verbs.families(),
        Family("asv_agent_reports_unheard", "gauge", "reports no service has acknowledged", (Sample((), unheard),)),
        Family("asv_agent_reports_lost_total", "counter", "reports sent in vain", (Sample((), requests_lost),)),
    )  # fmt: skip
    return Figures(agent.node, own, of_process())
