"""The grantor: grants leases, suspects, proves, declares. A pure stepper: time and messages in, effects out.

    locked(now, sent) · unlocked()     its lock in Postgres was checked (asked for at `sent`), or is not had
    see(picture)                       what the log says by now
    ask(now, ref, AskGrant)            → Reply
    beat(now, witness, LeaseBeat) · answered(now, id, Records | Probes) · unanswered(id)
    tick(now, wall)                    → effects; every TICK_US or more often
    on_fenced(now, wall, node, epoch, confirmed, device, sentence)

now: its own monotonic clock, microseconds; it alone measures. wall: only for what people read, and for windows of minutes.
No deadline survives: what was granted or awaited by another life of it counts from its own start, `rules.floor_us`.
Who hears the questions and does not lead answers nothing: the leader's answer is not to be beaten by its own deputy.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from libs.lease.times import times
from proto.lease import (
    MUTE,
    AskGrant,
    BeginTerm,
    DeclareLost,
    Granted,
    LeaseBeat,
    Probes,
    Proof,
    ProofKind,
    Records,
    Refuse,
)
from services.ha import rules
from services.ha.effects import Ask, Effect, Picture, Reply, Tell
from services.ha.judging import Judge
from services.ha.pathways import notes
from services.ha.signs import Fresh, Node, counts, mark_of
from services.ha.states import Ha, Lost
from services.ha.taking import nameable, shared, take

TICK_US = 50_000
LATE_US = 4 * TICK_US
"""a tick that comes so much later than it should says that this process is too busy to judge others by their silence"""
AWAY_US = 2_000_000
"""and after one that comes so late nobody was silent: it could not hear"""
TELL_US = 500_000
LOOK_US = 500_000
ASKS_MAX = 1000

NOTHING = Picture(Ha(), {}, {})


def _held(ask: AskGrant) -> tuple[object, ...]:
    """What of it bears on what has to be in the log."""
    return ask.boot_id, ask.pools, ask.renews, ask.tolerant, ask.address


@dataclass(slots=True)
class Asked:
    """A question under way. node: about whom, for records."""

    sent_us: int
    to: str
    nodes: tuple[str, ...] = ()


@dataclass(slots=True)
class Grantor:
    """name: of this process, that no other has. began_us: when its lock was had (None: it is not)."""

    name: str
    picture: Picture = NOTHING
    began_us: int | None = None
    checked_us: int | None = None
    born_us: int = 0
    times_led: int = 0
    ticked_us: int = 0
    late_us: int = -(10**12)
    awake_us: int = 0
    nodes: dict[str, Node] = field(default_factory=dict)
    asks: dict[int, Asked] = field(default_factory=dict)
    epochs: dict[str, int] = field(default_factory=dict)
    shared: frozenset[str] = frozenset()
    serial: int = 0
    retry_us: int = 0
    look_us: int = 0

    # --- does it lead? --------------------------------------------------------------------------------------------

    @property
    def holder(self) -> str:
        return f"{self.name}.{self.times_led}"

    @property
    def term(self) -> int:
        """0: none of its own."""
        ha = self.picture.ha
        return ha.term if self.began_us is not None and ha.holder == self.holder else 0

    def leads(self, now_us: int) -> bool:
        return bool(self.term) and rules.may_sign(now_us, self.checked_us)

    def locked(self, now_us: int, sent_us: int) -> None:
        """It has the lock, said by a check sent at sent_us and heard now."""
        if self.began_us is None:
            self.began_us = now_us
            self.times_led += 1
            for node in self.nodes.values():
                node.granted_us, node.named_us, node.tolerant_us, node.declared = 0, {}, 0, None
        self.checked_us = sent_us

    def unlocked(self) -> None:
        self.began_us = self.checked_us = None

    def see(self, picture: Picture) -> None:
        if picture.members is not self.picture.members:
            self.shared = shared(picture)
        self.picture = picture
        self.look_us = 0
        for name, lease in picture.leases.items():
            if self.epochs.get(name) != lease.epoch:
                self.epochs[name] = lease.epoch
                self.nodes[name] = Node(self.ticked_us, self.ticked_us, slow_us=self.node(name).slow_us)

    def node(self, name: str) -> Node:
        known = self.nodes.get(name)
        if known is None:
            known = self.nodes[name] = Node()
        return known

    def floor_us(self, node: Node) -> int:
        assert self.began_us is not None
        return rules.floor_us(node.granted_us, self.began_us)

    @property
    def listens_us(self) -> int:
        """Since when it has heard all that there was to hear."""
        return max(self.born_us, self.awake_us, self.began_us or 0)

    # --- grants ---------------------------------------------------------------------------------------------------

    def ask(self, now_us: int, ref: object, ask: AskGrant) -> list[Effect]:
        """A node wants its lease renewed."""
        node = self.node(ask.node)
        lease = self.picture.leases.get(ask.node)
        incarnation = self.picture.incarnation
        if lease is None or lease.boot_id in ("", ask.boot_id) or rules.untold(lease, ask, incarnation):
            if node.ask is None or _held(node.ask) != _held(ask):
                self.look_us = 0
            node.asked_us, node.ask = now_us, ask
        else:
            node.other_us = now_us
        if self.began_us is None:
            return []
        return [Reply(ref, self._granted(now_us, node, ask))]

    def _granted(self, now_us: int, node: Node, ask: AskGrant) -> Granted:
        lease = self.picture.leases.get(ask.node)
        no = Granted(self.term, ask.epoch, ask.sent_us, refused=Refuse.NOT_LEADING)
        if not self.leads(now_us):
            return no
        if ask.node not in self.picture.members:
            return Granted(self.term, ask.epoch, ask.sent_us, refused=Refuse.STRANGER)
        if lease is None or lease.term != self.term:
            return no
        if rules.untold(lease, ask, self.picture.incarnation):
            return Granted(self.term, ask.epoch, ask.sent_us, refused=Refuse.LOST) if rules.over(ask) else no
        if ask.epoch > lease.epoch:
            return no
        if isinstance(lease, Lost) or 0 < ask.epoch < lease.epoch:
            ended = lease.epoch if isinstance(lease, Lost) else ask.epoch
            return Granted(self.term, ended, ask.sent_us, refused=Refuse.LOST)
        if node.declared is not None:
            return no
        if lease.boot_id != ask.boot_id:
            return Granted(self.term, ask.epoch, ask.sent_us, refused=Refuse.OTHER_BOOT) if lease.boot_id else no
        tolerant = self.picture.ha.settings.tolerant and lease.tolerant
        wanted = nameable(self, ask.node, ask, now_us)
        pools = tuple(pool for pool in wanted if pool in lease.pools)
        if pools != wanted and not node.granted_us:
            return no  # what begins has both paths: else a VM that starts at once would die with the control plane
        node.granted_us = now_us
        node.named_us |= dict.fromkeys(pools, now_us)
        node.tolerant_us = now_us if tolerant else node.tolerant_us
        span = times(tolerant).lease_us
        return Granted(self.term, lease.epoch, ask.sent_us, span, pools, tolerant=tolerant)

    # --- signs ----------------------------------------------------------------------------------------------------

    def beat(self, now_us: int, witness: str, beat: LeaseBeat) -> None:
        """What a node's watchdog saw of the others' records. witness: whose subject it came on."""
        if witness != beat.node or witness not in self.picture.members:
            return
        self.node(witness).mute = beat.own == MUTE
        if beat.slow:
            self.node(witness).slow_us = now_us
        for sighting in beat.sightings:
            lease = self.picture.leases.get(sighting.node)
            if lease is None or sighting.node == witness:
                continue
            if not counts(sighting):
                continue
            node = self.node(sighting.node)
            mark = mark_of(sighting, lease.boot_id, lease.epoch)
            node.record(sighting.pool).saw(f"{witness} {beat.boot_id}", mark, now_us, beat.at_us)
            node.noticed(sighting, lease.boot_id)

    def answered(self, now_us: int, id: int, answer: Records | Probes) -> None:
        asked = self.asks.pop(id, None)
        if asked is None:
            return
        if isinstance(answer, Probes):
            for name, took_ms in answer.answered_ms.items():
                if not answer.error and name in asked.nodes:
                    self.node(name).probes[asked.to] = (asked.sent_us, took_ms >= 0)
            return
        for sighting in answer.sightings:
            lease = self.picture.leases.get(sighting.node)
            if lease is None or sighting.node not in asked.nodes or not counts(sighting):
                continue
            node = self.node(sighting.node)
            node.fresh[sighting.pool] = Fresh(mark_of(sighting, lease.boot_id, lease.epoch), asked.sent_us)
            node.noticed(sighting, lease.boot_id)

    def unanswered(self, id: int) -> None:
        """Says nothing of anybody."""
        self.asks.pop(id, None)

    # --- time -----------------------------------------------------------------------------------------------------

    def tick(self, now_us: int, wall_us: int) -> list[Effect]:
        if not self.ticked_us:
            self.born_us = self.awake_us = self.ticked_us = now_us
        if now_us - self.ticked_us > LATE_US:
            self.late_us = now_us
        if now_us - self.ticked_us > AWAY_US:
            self.awake_us = now_us
        self.ticked_us = now_us
        if self.began_us is None or not rules.may_sign(now_us, self.checked_us):
            return []
        if not self.term:
            return [Tell(BeginTerm(holder=self.holder, now_us=wall_us))] if self._due(now_us) else []
        out: list[Effect] = []
        if now_us >= self.look_us:  # at once where the log or a node says something new
            self.look_us = now_us + LOOK_US
            out += [Tell(one) for one in (*take(self, now_us, wall_us), *notes(self, now_us, wall_us))]
        return out + Judge(self, now_us, wall_us).judge()

    def _due(self, now_us: int) -> bool:
        if now_us < self.retry_us:
            return False
        self.retry_us = now_us + TELL_US
        return True

    def put(self, now_us: int, to: str, message: object, nodes: tuple[str, ...]) -> Ask:
        """A question to a node; old ones that were never answered are forgotten."""
        self.serial += 1
        while len(self.asks) >= ASKS_MAX:
            self.asks.pop(next(iter(self.asks)))
        self.asks[self.serial] = Asked(now_us, to, nodes)
        return Ask(self.serial, to, message)  # type: ignore[arg-type]

    # --- a fence device -------------------------------------------------------------------------------------------

    def on_fenced(
        self, now_us: int, wall_us: int, name: str, epoch: int, confirmed: bool, device: str, sentence: str
    ) -> list[Effect]:
        """What a device said, asked by FenceNode. Only its confirmation that the power is off counts, and only of the lease that
        was meant; a device that fails, or does not answer in time, has said nothing."""
        lease = self.picture.leases.get(name)
        if not confirmed or not self.leads(now_us) or lease is None or lease.epoch != epoch:
            return []
        proof = Proof(kind=ProofKind.FENCE, at_us=now_us, term=self.term, device=device, sentence=sentence)
        return self.declare(name, wall_us, proof)

    def declare(self, name: str, wall_us: int, proof: Proof) -> list[Effect]:
        """From here on it is granted nothing: the log may say so any time."""
        lease = self.picture.leases[name]
        if isinstance(lease, Lost):
            return []
        self.node(name).declared = (lease.epoch, lease.boot_id, proof)
        return [Tell(DeclareLost(node=name, boot_id=lease.boot_id, epoch=lease.epoch, proof=proof, now_us=wall_us))]
