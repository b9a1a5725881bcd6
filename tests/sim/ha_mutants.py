"""The guards of high availability, each of which is taken away to see that the world misses it (docs/ha.md, "what must turn red").

A guard is a small function in the production code, or one line of how processes are wired; a mutant replaces it. MUTANTS says by
which scenario it is found without searching; `make mutants` searches for others by chance. Those that cannot be seen in a
simulation are in elsewhere.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from libs.lease import holder
from libs.lease.times import Times
from libs.world import nodes
from libs.world.nodes import NodeProcess
from libs.world.watch import Watch
from proto.compute import Capabilities
from proto.lease import Proof, ProofKind, Sign, Silence
from services.ha import grantor, lease, proof, rules, verdict_views, verdicts
from services.ha.fencing import judge
from services.ha.judging import Judge
from services.ha.node_views import NodeViews
from services.ha.verdict_rule import own_words
from services.node.drivers.simpool import SimPool
from tests.sim.recovery_mutants import (
    a_recovered_disk_is_made_anew,
    home_a_layer_too_early,
    what_is_damaged_is_recovered_from,
    what_is_held_is_deleted,
)
from tests.sim.test_migration import the_target_runs_before_the_source_is_gone
from tests.sim.test_world import older_orders_are_taken, starts_are_repeated

type Patch = pytest.MonkeyPatch


def lease_counts_from_receipt(patch: Patch) -> None:
    """A renewal counts from when it was acknowledged."""
    patch.setattr(holder, "counts_from", lambda sent_us, acknowledged_us: acknowledged_us)


def no_drift_and_no_margin(patch: Patch) -> None:
    """The grantor waits L, by its own clock."""
    patch.setattr(Times, "waited_us", property(lambda times: times.lease_us))


def a_new_grantor_does_not_wait(patch: Patch) -> None:
    patch.setattr(rules, "floor_us", lambda granted_us, began_us: granted_us)


def only_the_control_path_counts(patch: Patch) -> None:
    """A node that asks for nothing is dead, whatever its record does."""
    patch.setattr(
        rules, "storage_spent", lambda node, pools, read_us, now_us, wait: dict.fromkeys(pools, read_us - wait)
    )
    patch.setattr(Judge, "_moves", lambda judge, name, lease: False)
    _proofs_are_believed(patch)


def only_the_storage_path_counts(patch: Patch) -> None:
    """A node whose record stands still is dead, whoever grants it what."""
    real = Judge._control
    silent = Silence(path=Sign.CONTROL, since_us=0, for_us=10_000_000)

    def control(judge: Judge, name: str, of: Any) -> Silence | None:
        return silent if judge._storage(name, of) is not None else real(judge, name, of)

    patch.setattr(Judge, "_control", control)
    patch.setattr(rules, "control_spent", lambda asked_us, floor, wait: True)
    patch.setattr(rules, "floor_us", lambda granted_us, began_us: 0)
    _proofs_are_believed(patch)


def _proofs_are_believed(patch: Patch) -> None:
    patch.setattr(proof, "fault", lambda of, by: "")
    patch.setattr(lease, "fault", lambda of, by: "")


def a_suspicion_starts_vms(patch: Patch) -> None:
    """A node that two paths do not hear is declared lost at once."""

    def spent(now_us: int, lease: Any, node: Any, floor: int, term: int) -> Proof:
        return Proof(kind=ProofKind.LEASE, at_us=now_us, term=term)

    patch.setattr(rules, "spent", spent)
    _proofs_are_believed(patch)


def isolated_is_taken_for_dead(patch: Patch) -> None:
    """What was asked for by letter counts as ended before the node has said so."""

    def acknowledged(now_us: int, lease: Any, node: Any, term: int) -> Proof:
        return Proof(kind=ProofKind.ACKNOWLEDGED, at_us=now_us, term=term, letter=lease.letter)

    patch.setattr(rules, "acknowledged", acknowledged)


def the_watchdog_dies_with_the_agent(patch: Patch) -> None:
    real = NodeProcess.crash

    def crash(self: NodeProcess) -> None:
        real(self)
        self.watchdog.crash()

    patch.setattr(NodeProcess, "crash", crash)


def a_failed_read_is_silence(patch: Patch) -> None:
    patch.setattr(grantor, "counts", lambda sighting: True)


def the_lock_is_not_checked(patch: Patch) -> None:
    """A grantor that had its lock once grants and declares for ever."""
    patch.setattr(rules, "may_sign", lambda now_us, checked_us: checked_us is not None)


def the_watchdog_only_pauses(patch: Patch) -> None:
    """What it guards is never killed."""
    patch.setattr(Watch, "_kill", lambda self: None)


def the_letter_is_answered_before_it_is_done(patch: Patch) -> None:
    real = holder.Holder._answered

    def answered(self: Any) -> Any:
        vms, self.vms = self.vms, {}
        try:
            return real(self)
        finally:
            self.vms = vms

    patch.setattr(holder.Holder, "_answered", answered)


def the_observer_does_not_doubt_itself(patch: Patch) -> None:
    patch.setattr(rules, "quorum", lambda nodes, heard, storage, silent: None)


def any_number_is_lost_at_once(patch: Patch) -> None:
    patch.setattr(rules, "storm", lambda recent, silent, most, window_s: None)


def the_storage_does_not_lock(patch: Patch) -> None:
    """QEMU is started with locking off."""
    real = SimPool.open

    def open_(self: SimPool, spec: Any, holder: Any) -> None:
        locking, self.locking = self.locking, False
        try:
            real(self, spec, holder)
        finally:
            self.locking = locking

    patch.setattr(SimPool, "open", open_)


def a_timeout_is_a_confirmation(patch: Patch) -> None:
    """A device that does not answer in time has done what it was ordered, as far as anybody knows."""
    real = judge.proves

    def proves(job: Any, note: Any) -> Any:
        reads, said = real(job, note)
        return (reads, said) if reads or "answer" not in said else (note.reads, "")

    patch.setattr(judge, "proves", proves)


def a_device_is_believed_whatever_the_node_shows(patch: Patch) -> None:
    real = judge.proves
    patch.setattr(judge, "proves", lambda job, note: real(job, replace(note, spoke_us=0, moved_us=0)))


def what_peers_reach_is_no_sign_of_life(patch: Patch) -> None:
    patch.setattr(NodeViews, "reached", lambda self, node, asked_us: None)


def a_ledger_is_larger_than_its_host(patch: Patch) -> None:
    """Twice. The proof over ledgers cannot see that."""
    patch.setattr(nodes, "Capabilities", lambda **can: Capabilities(**{**can, "memory_mib": 2 * can["memory_mib"]}))


def what_nobody_reads_stands_still(patch: Patch) -> None:
    """A device is believed soon where the node's record cannot be read."""
    patch.setattr(NodeViews, "watched", lambda self, node, now_us: True)


def one_pool_of_several_is_looked_at(patch: Patch) -> None:
    """A node whose record stands still in the first of its pools is silent, whatever it writes into the others."""
    real = Judge.__post_init__

    def first(judge: Judge) -> None:
        real(judge)
        judge.leases = {name: replace(of, pools=of.pools[:1]) for name, of in judge.leases.items()}

    patch.setattr(Judge, "__post_init__", first)
    _proofs_are_believed(patch)


def one_sign_is_enough(patch: Patch) -> None:
    """A guest that one sign alone says is dead is ended."""
    for module in (verdicts, verdict_views):
        patch.setattr(module, "two_signs", lambda findings: bool(own_words({f.sign: f for f in findings})))


MUTANTS: dict[Callable[[Patch], None], str] = {
    lease_counts_from_receipt: "acknowledged-late",
    no_drift_and_no_margin: "clocks-drift-tolerant",
    a_new_grantor_does_not_wait: "new-grantor-and-a-cut",
    only_the_control_path_counts: "isolated-leave",
    only_the_storage_path_counts: "storage-stall-of-one",
    a_failed_read_is_silence: "nobody-can-read",
    a_suspicion_starts_vms: "nobody-can-read",
    isolated_is_taken_for_dead: "isolated-evacuate",
    the_watchdog_dies_with_the_agent: "agent-and-storage",
    the_watchdog_only_pauses: "both-paths-cut",
    the_letter_is_answered_before_it_is_done: "slow-kills",
    the_lock_is_not_checked: "two-grantors-one-in-the-dark",
    the_observer_does_not_doubt_itself: "is-it-me",
    any_number_is_lost_at_once: "three-of-seven",
    the_storage_does_not_lock: "watchdog-stopped",
    a_timeout_is_a_confirmation: "fence-silent",
    a_device_is_believed_whatever_the_node_shows: "fence-lies-and-the-record-moves",
    what_peers_reach_is_no_sign_of_life: "fence-lies-and-peers-reach-it",
    a_ledger_is_larger_than_its_host: "no-room-for-all",
    what_nobody_reads_stands_still: "fence-lies-while-nobody-reads",
    one_pool_of_several_is_looked_at: "two-pools-one-away",
    one_sign_is_enough: "guest-one-sign-alone",
    older_orders_are_taken: "an-order-comes-late-and-again",
    starts_are_repeated: "vm-process-dies",
    the_target_runs_before_the_source_is_gone: "migration-dead-source",
    what_is_held_is_deleted: "recovered-and-its-backup-is-deleted",
    home_a_layer_too_early: "recovered-from-one-file",
    what_is_damaged_is_recovered_from: "recovered-from-what-is-sound",
    a_recovered_disk_is_made_anew: "recovered-and-dies-as-it-comes-home",
}
"""each with the scenario that finds it"""
