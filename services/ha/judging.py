"""What the grantor concludes of each node at a tick. Pure.

For each node that has a lease:
    asks for grants       → trusted again, where it was not
    two paths are silent  → suspected; then, once both renewals are spent and read afresh: lost
    silent but its record moves → isolated: it lives. By policy it is asked, by a letter beside its record, to end its VMs
While the observer doubts itself, or is disarmed, it suspects and grants, and declares nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from msgspec.structs import replace

from proto.lease import (
    AskLetter,
    AskProbe,
    AskRecords,
    DeclareLost,
    HoldHa,
    Isolated,
    IsolateNode,
    Proof,
    RearmHa,
    Sign,
    Silence,
    SuspectNode,
    TrustNode,
)
from services.ha import rules
from services.ha.effects import Effect, FenceNode, Tell
from services.ha.signs import Node
from services.ha.states import Isolated as Away
from services.ha.states import Lease, Lost, Suspected

if TYPE_CHECKING:
    from services.ha.grantor import Grantor

TELL_US = 500_000
PROBE_US = 1_000_000
READ_US = 100_000
"""between two fresh reads of a record that is about to prove something"""
PROBED_US = 3_000_000
"""how long an answer of peers counts, and how long it is waited for"""
LETTER_US = 1_000_000
ANSWER_US = 300_000
"""between two looks for the answer to a letter"""
WITNESSES_MAX = 3
FENCE_US = 5_000_000


@dataclass(slots=True)
class Judge:
    """One tick's work."""

    grantor: Grantor
    now_us: int
    wall_us: int
    leases: dict[str, Lease] = field(init=False)
    """of members that were granted something once, and are not lost"""

    def __post_init__(self) -> None:
        picture, term = self.grantor.picture, self.grantor.term
        self.leases = {
            name: lease
            for name, lease in picture.leases.items()
            if lease.boot_id and not isinstance(lease, Lost) and lease.term == term and name in picture.members
        }

    def judge(self) -> list[Effect]:
        ha = self.grantor.picture.ha
        out: list[Effect] = []
        if not ha.armed and 0 < ha.until_us <= self.wall_us and self.grantor.node("").due("arm", self.now_us, TELL_US):
            out.append(Tell(RearmHa(now_us=self.wall_us)))
        hold = self._hold()
        said = (hold.sentence, hold.remedy) if hold else ("", "")
        if bool(said[0]) != bool(ha.held) and self.grantor.node("").due("hold", self.now_us, TELL_US):
            out.append(Tell(HoldHa(sentence=said[0], remedy=said[1], now_us=self.wall_us)))
        concludes = ha.armed and hold is None and not ha.held
        for name, lease in sorted(self.leases.items()):
            out += self._node(name, lease, self.grantor.node(name), concludes)
        return out

    # --- doubt ----------------------------------------------------------------------------------------------------

    def _hold(self) -> rules.Hold | None:
        """Of nodes about which nobody has given his word."""
        ha, leases = self.grantor.picture.ha, self.leases
        suspected = [
            n for n, lease in sorted(leases.items()) if isinstance(lease, Suspected) and lease.since_us > ha.word_us
        ]
        if not suspected:
            return None
        heard = sum(self._control(n, lease) is None or self._moves(n, lease) for n, lease in leases.items())
        storage = any(self._looked_at(n, leases[n]) for n in suspected)
        doubt = rules.quorum(len(leases), heard, storage, suspected)
        if doubt is not None:
            return doubt
        window = ha.settings.window_s
        since_us = max(self.wall_us - round(window * 1e6), ha.word_us)
        recent = [n for n, lease in sorted(self.grantor.picture.leases.items()) if lease.lost_us > since_us]
        surprising = [n for n in suspected if rules.surprising(leases[n], self._anew(n, leases[n]))]
        return rules.storm(recent, surprising, ha.settings.lost_max, window)

    def _anew(self, name: str, lease: Lease) -> bool:
        """It was started anew: another boot asks just now."""
        return self.now_us - self.grantor.node(name).other_us <= self.patience_us(name, lease)

    def _looked_at(self, name: str, lease: Lease) -> bool:
        """Somebody reads its records, in all pools by which it may renew."""
        node = self.grantor.node(name)
        return bool(lease.pools) and all(self._late(node.record(p).newest_us, name, lease) is None for p in lease.pools)

    # --- the three paths ------------------------------------------------------------------------------------------

    def patience_us(self, name: str, lease: Lease) -> int:
        grantor = self.grantor
        return rules.patience_us(self.now_us, grantor.node(name), lease.times, grantor.late_us)

    def _late(self, since_us: int, name: str, lease: Lease) -> int | None:
        """How long it has been, where that is too long for what comes once a second and is read once a second."""
        for_us = self.now_us - since_us
        return for_us if for_us > self.patience_us(name, lease) + lease.times.beat_us else None

    def _control(self, name: str, lease: Lease) -> Silence | None:
        since_us = max(self.grantor.node(name).asked_us, self.grantor.awake_us)
        for_us = self.now_us - since_us
        if for_us <= self.patience_us(name, lease):
            return None
        said = f"it has asked for no lease for {for_us / 1e6:.1f} s"
        return Silence(path=Sign.CONTROL, since_us=since_us, for_us=for_us, sentence=said)

    def _moves(self, name: str, lease: Lease) -> bool:
        """Somebody saw its record move just now, in one of its pools."""
        node = self.grantor.node(name)
        return any(
            self._late(node.record(p).moved_us, name, lease) is None for p in lease.pools if node.record(p).moved_us
        )

    def _storage(self, name: str, lease: Lease) -> Silence | None:
        """None also where nobody looks, or has not looked for long enough yet."""
        if self._moves(name, lease) or not self._looked_at(name, lease) or self._back(name, lease):
            return None
        since_us = max(self.grantor.node(name).record(p).moved_us for p in lease.pools)
        for_us = self.now_us - since_us if since_us else self.now_us - self.grantor.born_us
        said = f"its record stands still for {for_us / 1e6:.1f} s in {self._named(lease.pools)}"
        return Silence(path=Sign.STORAGE, since_us=since_us, for_us=for_us, sentence=said)

    def _back(self, name: str, lease: Lease) -> bool:
        """A pool is read again just now: whether its record moves there is still to be seen."""
        records = (self.grantor.node(name).record(pool) for pool in lease.pools)
        return any(record.back_us and self._late(record.back_us, name, lease) is None for record in records)

    def _named(self, pools: tuple[str, ...]) -> str:
        names = self.grantor.picture.names
        return ", ".join(sorted(names.get(pool, pool) for pool in pools))

    def _peers(self, name: str, lease: Lease) -> Silence | None:
        """Some were asked, none that is fit to judge reached it; or who is there now is not who had the lease."""
        other_us = self.grantor.node(name).other_us
        if self._anew(name, lease):
            return Silence(
                path=Sign.PEERS, since_us=other_us, for_us=0, sentence="it was started anew: another boot asks"
            )
        recent = {
            witness: (sent_us, reached)
            for witness, (sent_us, reached) in self.grantor.node(name).probes.items()
            if self.now_us - sent_us <= PROBED_US
            and (reached or self.now_us - self.grantor.node(witness).slow_us > rules.SLOW_US)
        }
        if not recent or any(reached for _, reached in recent.values()):
            return None
        said = f"{', '.join(sorted(recent))} cannot reach it"
        since_us = min(sent_us for sent_us, _ in recent.values())
        return Silence(path=Sign.PEERS, since_us=since_us, for_us=self.now_us - since_us, sentence=said)

    def witnesses(self, name: str, turn: int = 0) -> list[str]:
        """Up to three other nodes that are heard, others each time."""
        live = [
            other
            for other, lease in sorted(self.leases.items())
            if other != name and self._control(other, lease) is None and not isinstance(lease, Suspected)
        ]
        start = turn % len(live) if live else 0
        return (live[start:] + live[:start])[:WITNESSES_MAX]

    # --- one node -------------------------------------------------------------------------------------------------

    def _node(self, name: str, lease: Lease, node: Node, concludes: bool) -> list[Effect]:
        if node.declared is not None:
            return self._again(name, node)
        control = self._control(name, lease)
        if control is None:
            back = isinstance(lease, Suspected | Away) and node.due("trust", self.now_us, TELL_US)
            return [Tell(TrustNode(node=name, now_us=self.wall_us))] if back else []
        out = self._probe(name, lease, node)
        peers = self._peers(name, lease)
        silences = tuple(s for s in (control, self._storage(name, lease), peers) if s is not None)
        if self._moves(name, lease):
            return out + self._isolated(name, lease, node, silences, concludes)
        if (
            rules.suspicious(silences)
            and not isinstance(lease, Suspected)
            and node.due("suspect", self.now_us, TELL_US)
        ):
            out.append(Tell(SuspectNode(node=name, silences=silences, now_us=self.wall_us)))
        return out + self._prove(name, lease, node, concludes)

    def _again(self, name: str, node: Node) -> list[Effect]:
        """What was declared is told until the log has it: it may have it already."""
        assert node.declared is not None
        epoch, boot_id, proof = node.declared
        if not node.due("declare", self.now_us, TELL_US):
            return []
        return [Tell(DeclareLost(node=name, boot_id=boot_id, epoch=epoch, proof=proof, now_us=self.wall_us))]

    def _probe(self, name: str, lease: Lease, node: Node) -> list[Effect]:
        if not lease.address or not node.due("probe", self.now_us, PROBE_US):
            return []
        message = AskProbe(addresses={name: lease.address})
        return [self.grantor.put(self.now_us, to, message, (name,)) for to in self.witnesses(name, self.grantor.serial)]

    def _isolated(
        self, name: str, lease: Lease, node: Node, silences: tuple[Silence, ...], concludes: bool
    ) -> list[Effect]:
        """It lives. Its VMs are asked for only when others cannot reach it either: else its agent alone is silent."""
        settings = self.grantor.picture.ha.settings
        away_us = round(settings.isolated_s * 1e6)
        unreached = any(s.path == Sign.PEERS for s in silences) and self._mostly_heard(name)
        evacuate = concludes and unreached and settings.isolated == Isolated.EVACUATE
        if not self._outlives(name, lease, node):
            return []
        asked = isinstance(lease, Away) and lease.asked
        if not (unreached or self._reached(node) or silences[0].for_us >= away_us + PROBED_US):
            return []
        if silences[0].for_us >= away_us and not asked and (evacuate or not isinstance(lease, Away)):
            if not node.due("isolate", self.now_us, TELL_US):
                return []
            return [Tell(IsolateNode(node=name, silences=silences, evacuate=evacuate, now_us=self.wall_us))]
        if not asked or not concludes:
            return []
        proof = rules.acknowledged(self.now_us, lease, node, self.grantor.term)
        if proof is not None:
            return self._declare(name, node, proof)
        return self._letter(name, lease, node) + self._look(name, lease, node, ANSWER_US)

    def _reached(self, node: Node) -> bool:
        return any(reached and self.now_us - sent_us <= PROBED_US for sent_us, reached in node.probes.values())

    def _outlives(self, name: str, lease: Lease, node: Node) -> bool:
        """Its record moved when it had been silent for long already: what was written before it fell silent says nothing."""
        moved_us = max(node.record(pool).moved_us for pool in lease.pools)
        return moved_us - node.asked_us > self.patience_us(name, lease)

    def _mostly_heard(self, name: str) -> bool:
        leases = self.leases
        asking = sum(self._control(other, lease) is None for other, lease in leases.items())
        return rules.quorum(len(leases), asking, True, [name]) is None

    def _letter(self, name: str, lease: Lease, node: Node) -> list[Effect]:
        """Until its record answers; any witness may lay it down, the same letter lies there once."""
        if not node.due("letter", self.now_us, LETTER_US):
            return []
        message = AskLetter(
            node=name, pools=lease.pools, number=lease.letter, term=self.grantor.term, epoch=lease.epoch
        )
        return [self.grantor.put(self.now_us, to, message, (name,)) for to in self.witnesses(name, self.grantor.serial)]

    def _prove(self, name: str, lease: Lease, node: Node, concludes: bool) -> list[Effect]:
        if not concludes or not rules.provable(lease):
            return []
        proof = rules.spent(self.now_us, lease, node, self.grantor.floor_us(node), self.grantor.term)
        if proof is not None:
            return self._declare(name, node, replace(proof, anew=self._anew(name, lease)))
        return self._fence(name, lease, node) + self._read(name, lease, node) + self._unread(name, lease, node)

    def _unread(self, name: str, lease: Lease, node: Node) -> list[Effect]:
        """Why it is not proven, where nobody can read its record in a pool by which it may be renewing its lease."""
        if not isinstance(lease, Suspected):
            return []
        since_us = max(self.grantor.listens_us, node.asked_us, node.since_us)
        unread = tuple(p for p in lease.pools if self.now_us - max(node.record(p).newest_us, since_us) > rules.UNREAD_US)
        if unread == lease.unread or not node.due("unread", self.now_us, TELL_US):
            return []
        return [Tell(SuspectNode(node=name, silences=lease.silences, unread=unread, now_us=self.wall_us))]

    def _declare(self, name: str, node: Node, proof: Proof) -> list[Effect]:
        node.due("declare", self.now_us, TELL_US)
        return self.grantor.declare(name, self.wall_us, proof)

    def _fence(self, name: str, lease: Lease, node: Node) -> list[Effect]:
        device = self.grantor.picture.members[name].device
        if not device or not isinstance(lease, Suspected) or not node.due("fence", self.now_us, FENCE_US):
            return []
        return [FenceNode(name, lease.epoch, lease.boot_id, device)]

    def _read(self, name: str, lease: Lease, node: Node) -> list[Effect]:
        """Afresh, once the record has stood still for long enough as far as is known."""
        wait = rules.wait_us(lease.times)
        ready_us = self.grantor.floor_us(node) + wait
        for pool in lease.pools:
            record = node.record(pool)
            mark = record.newest_mark()
            since = record.still_since(mark, self.now_us) if mark is not None else None
            ready_us = max(ready_us, (since if since is not None else self.now_us) + wait)
        return self._look(name, lease, node, READ_US) if lease.pools and self.now_us >= ready_us else []

    def _look(self, name: str, lease: Lease, node: Node, every_us: int) -> list[Effect]:
        if not node.due("read", self.now_us, every_us):
            return []
        message = AskRecords(nodes=(name,), pools=lease.pools)
        return [self.grantor.put(self.now_us, to, message, (name,)) for to in self.witnesses(name, self.grantor.serial)]
