"""What a node's agent does for the lease: it asks the grantor, tells what the watchdog saw, answers the grantor's questions, asks
the watchdog before a guarded VM starts or goes on, and says when the node is clean again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from msgspec.structs import replace

from libs.common.messages import Fact, NodeId, Reply
from libs.lease.effects import Grant, Letter, State
from libs.world.watch import Watch, sightings
from proto.compute import ReportVm
from proto.lease import (
    AskGrant,
    AskLetter,
    AskProbe,
    AskRecords,
    Granted,
    LeaseBeat,
    Probes,
    Records,
    ReportReturned,
)
from proto.machine import MachineSpec
from services.node.leasing import RUNS, STARTS, forgotten

if TYPE_CHECKING:
    from libs.world.nodes import NodeProcess

BEAT_US = 1_000_000
PROBE_US = 2_000
GUARDED = frozenset((*STARTS, *RUNS))
"""verbs of the agent that a guarded VM may do under a lease only"""
HOLDS = (State.HELD, State.PAUSED)

type Answered = Callable[[Records | Probes], None]


class LeaseClient:
    """A part of the agent: it dies with it."""

    def __init__(self, node: NodeProcess, watch: Watch) -> None:
        self.node = node
        self.watch = watch
        self.returned = 0
        """the epoch that ended, and was heard to have"""
        self._guarded = False

    def begin(self) -> None:
        self.returned = 0
        self._guarded = self.guards
        self.second()

    def second(self) -> None:
        if self.node.agent is None:
            return
        self.ask()
        self._return()
        if self._guarded != self.guards:
            self._guarded = self.guards
            self.node.greet()
        self.node.later(BEAT_US, self.second)

    # --- the grantor ----------------------------------------------------------------------------------------------

    def ask(self) -> None:
        """For a grant; whoever grants answers, or nobody."""
        node, holder = self.node, self.watch.holder
        if node.agent is None or holder is None or self.watch.owner in node.world.net.paused:
            return
        clean = holder.state is State.ENDED and holder.epoch == self.returned
        question = AskGrant(
            node.name, holder.boot_id, 0 if clean else holder.epoch, self.watch.now_us, holder.term, len(holder.vms),
            node.pool_words, left_us=max(0, holder.end_us - self.watch.now_us) if holder.state in HOLDS else 0,
        )  # fmt: skip
        node.world.paths.ask_grant(question, lambda granted: self._granted(granted, clean))

    def _granted(self, granted: Granted, clean: bool) -> None:
        """Of the reply, on its way to the watchdog."""
        if granted.refused:
            self.node.world.guards[f"no grant: {granted.refused}"] += 1
        if clean and forgotten(granted, self.returned):
            self.returned = 0
        self.watch.granted(Grant(*(getattr(granted, name) for name in Grant._fields)))

    def beat(self) -> None:
        """At the watchdog's word, once a second. What it reads at a beat it tells at the next."""
        node, holder = self.node, self.watch.holder
        if node.agent is None or holder is None:
            return
        now_us = self.watch.now_us
        beat = LeaseBeat(
            node.name, holder.boot_id, now_us, str(holder.state), holder.epoch, max(0, holder.end_us - now_us),
            tuple(self.watch.sightings.values()), self.watch.slow,
        )  # fmt: skip
        node.world.paths.beat(node.name, beat)

    def _return(self) -> None:
        """Until ha has heard it."""
        node, holder = self.node, self.watch.holder
        if holder is None or not holder.clean or self.returned == holder.epoch:
            return
        epoch = holder.epoch

        def answered(reply: Reply) -> None:
            if reply.status == "accepted":
                self.returned = epoch

        node.tell("ha", ReportReturned(node=NodeId(node.name), boot_id=holder.boot_id, epoch=epoch), answered)

    @property
    def guards(self) -> bool:
        """Its watchdog has a lease, or had one."""
        return self.watch.holder is not None and self.watch.holder.epoch > 0

    def dated(self, fact: Fact) -> Fact:
        """What it reports of a VM names the lease under which it was seen."""
        holder = self.watch.holder
        if not isinstance(fact, ReportVm) or holder is None or holder.state not in HOLDS:
            return fact
        return replace(fact, epoch=holder.epoch)

    # --- the grantor's questions ------------------------------------------------------------------------------------

    def asked(self, message: AskRecords | AskLetter | AskProbe, answered: Answered) -> None:
        node = self.node
        if node.agent is None or self.watch.holder is None:
            return
        match message:
            case AskRecords():
                self._records(message, answered)
            case AskLetter():
                letter = Letter(message.node, message.number, message.term, message.epoch, message.vms)
                for pool in set(message.pools) & set(node.pool_words):
                    node.world.areas[pool].post(node.name, message.node, letter, lambda failed: None, self.watch.owner)
            case AskProbe():
                self._probe(message, answered)

    def _records(self, message: AskRecords, answered: Answered) -> None:
        node, found, left = self.node, list[object](), len(message.pools)

        def got(pool: str, seen: dict[str, object] | None) -> None:
            found.extend(sightings(pool, message.nodes, seen))
            if len(found) == left * len(message.nodes):
                answered(Records(sightings=tuple(found)))  # type: ignore[arg-type]

        for pool in message.pools:
            if pool not in node.pool_words:
                got(pool, None)
                continue
            look = lambda seen, pool=pool: got(pool, seen)  # noqa: E731
            node.world.areas[pool].look(node.name, message.nodes, look, self.watch.owner)

    def _probe(self, message: AskProbe, answered: Answered) -> None:
        """Whether the others' watchdogs answer, over the network between nodes."""
        world, name = self.node.world, self.node.name

        def probed() -> None:
            answered(Probes(answered_ms={other: 1.0 if world.paths.reaches(name, other) else -1.0 for other in message.addresses}))

        world.net.after(PROBE_US, probed, self.watch.owner)

    # --- the watchdog's questions, and the agent's ------------------------------------------------------------------

    def learn(self, number: int, vms: dict[str, int]) -> None:
        """What the control plane says of these generations; a lost question is asked again."""
        self.node.world.paths.generations(self.node.name, vms, lambda raised: self.watch.learnt(number, raised))

    def may(self, vm: str, verb: str, spec: MachineSpec) -> str:
        """Why not; "": it may, and `over` follows."""
        guarded = self.node.world.ha and spec.protected and verb in GUARDED
        return self.watch.may(vm) if guarded else ""
