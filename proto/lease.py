"""ha: whether a node is alive, and what proves that it is not (streams `lease-NODE`, `ha-main`).

A suspicion starts nothing. `NodeLost` alone lets VMs start elsewhere, and carries what proves that they do not run there any more.
Grants and sightings are never recorded: they are by the second. What was concluded from them is.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec

from libs.common.messages import Command, Event, Fact, Message, Name, NodeId, Tick, Value

MAIN = "main"
Seconds = Annotated[float, msgspec.Meta(ge=0, le=3600)]


class Refusal(StrEnum):
    NODE_UNKNOWN = "NODE_UNKNOWN"
    NODE_ALIVE = "NODE_ALIVE"
    NOT_LOST = "NOT_LOST"
    BAD_SETTINGS = "BAD_SETTINGS"


# --- the lease: what nodes and their grantor say to one another (never recorded) ----------------------------------


class Refuse(StrEnum):
    """Why a lease is not renewed. lost: the node was declared lost in this epoch or a later one: what it guards is to be ended,
    and it asks for the next epoch only then. not-leading: another process grants, or none may yet. stranger: no such node."""

    LOST = "lost"
    NOT_LEADING = "not-leading"
    STRANGER = "stranger"


class AskGrant(msgspec.Struct, frozen=True, array_like=True):
    """`lease.<node>`, request and reply, once a second. epoch: of the lease that it has (0: none yet). sent_us: its own boot-time
    clock when it sent this; comes back as it was. guarded: how many VMs it keeps under the lease. pools: shared pools that it
    reaches, by their words (Capabilities.pool_ids)."""

    node: str
    boot_id: str
    epoch: int
    sent_us: int
    term: int = 0
    guarded: int = 0
    pools: tuple[str, ...] = ()


class Granted(msgspec.Struct, frozen=True, array_like=True):
    """The lease ends lease_us after sent_us, by the node's own clock. term: a node refuses one below the highest it has seen.
    pools: the only ones by which the node may renew it itself. refused: it is not renewed."""

    term: int
    epoch: int
    sent_us: int
    lease_us: int = 0
    pools: tuple[str, ...] = ()
    refused: str = ""
    tolerant: bool = False


class Sighting(msgspec.Struct, frozen=True, array_like=True):
    """A node's record in a pool's lease area, as another node read it past all caches. error: it could not be read, which proves
    nothing. acknowledged: the letter that it answered last, done: VMs that it says it has ended since (process gone). lease_us: how
    long that node lets a renewal count, by the newest grant that it has heard of; own: how its lease stands (as in LeaseBeat)."""

    pool: str
    node: str
    boot_id: str = ""
    epoch: int = 0
    sequence: int = -1
    acknowledged: int = 0
    done: tuple[str, ...] = ()
    error: str = ""
    lease_us: int = 0
    own: str = ""


class LeaseBeat(msgspec.Struct, frozen=True, array_like=True):
    """`tel.<node>.leases`, once a second: what its watchdog saw of the others' records. own: how its own lease stands
    (`held`, `paused`, `ended`, `none`), left_us: until it ends. slow: it was late itself, so that its word counts less."""

    node: str
    boot_id: str
    at_us: int
    own: str
    epoch: int
    left_us: int = 0
    sightings: tuple[Sighting, ...] = ()
    slow: bool = False


class AskRecords(Message):
    """Read these nodes' records now, past all caches, in these pools (by word), once this was heard."""

    nodes: tuple[str, ...]
    pools: tuple[str, ...]


class Records(Value):
    sightings: tuple[Sighting, ...] = ()
    error: str = ""


class AskLetter(Message):
    """Put a letter into a node's mailbox beside its record, in each of these pools: it is to end these VMs (all that it guards
    where none is named) and to say so in its record. number: rises by one with each letter to that node; term: the grantor's."""

    node: Name
    pools: tuple[str, ...]
    number: int
    term: int
    epoch: int
    vms: tuple[str, ...] = ()


class AskProbe(Message):
    """Try to reach these nodes directly, at the addresses where their watchdogs answer."""

    addresses: dict[str, str]


class Probes(Value):
    """By node: the round trip in milliseconds; -1: no answer within a second."""

    answered_ms: dict[str, float] = {}
    error: str = ""


# --- what is concluded -----------------------------------------------------------------------------------------


class Sign(StrEnum):
    """A path on which a node shows that it lives."""

    CONTROL = "control"
    STORAGE = "storage"
    PEERS = "peers"


class Silence(Value):
    """How long a path has been silent, by the grantor's own clock. proven: by two reads far enough apart (storage)."""

    path: Sign
    since_us: int
    for_us: int
    proven: bool = False
    sentence: str = ""


class ProofKind(StrEnum):
    """fence: a device confirmed that the power is off. lease: spent on both paths, and waited out. acknowledged: the node's own
    word in its record that it ended them. operator: somebody's recorded word. clean: the node itself came back in another boot and
    runs nothing."""

    FENCE = "fence"
    LEASE = "lease"
    ACKNOWLEDGED = "acknowledged"
    OPERATOR = "operator"
    CLEAN = "clean"


class Proof(Value):
    """Why nothing of the node's epoch writes any more. Times by the grantor's monotonic clock. For `lease`: granted_us, the
    last grant; seen_us, when the last record (sequence) of each pool was first seen; waited_us: L x (1 + drift) + margin;
    read_us: when the last fresh read was asked for. everything: also what was under no lease is known not to run."""

    kind: ProofKind
    at_us: int
    term: int = 0
    granted_us: int = 0
    seen_us: dict[str, int] = {}
    sequences: dict[str, int] = {}
    read_us: int = 0
    waited_us: int = 0
    device: str = ""
    letter: int = 0
    vms: tuple[str, ...] = ()
    who: str = ""
    sentence: str = ""

    @property
    def everything(self) -> bool:
        return self.kind in (ProofKind.FENCE, ProofKind.OPERATOR, ProofKind.CLEAN)


class SuspectNode(Tick):
    """Two of the three paths are silent."""

    node: Name
    silences: tuple[Silence, ...] = ()


class TrustNode(Tick):
    """It shows itself on the control path again."""

    node: Name


class IsolateNode(Tick):
    """The control path is silent and its record moves: it lives. evacuate: by policy its guarded VMs are asked for."""

    node: Name
    silences: tuple[Silence, ...] = ()
    evacuate: bool = False
    letter: int = 0


class DeclareLost(Tick):
    """Decided once per epoch. A proof that does not hold by its own figures is refused."""

    node: Name
    boot_id: str
    epoch: int
    proof: Proof


class ConfirmOff(Command):
    """An operator's word that this node is off, or that what it ran has ended."""

    node: Name
    reason: str


class ReportReturned(Fact):
    """The node has ended all that is no longer its own, and guards nothing: it may have a lease of the next epoch."""

    boot_id: str
    epoch: int


class NodeSuspected(Event):
    node: NodeId
    at_us: int
    silences: tuple[Silence, ...] = ()


class NodeTrusted(Event):
    node: NodeId
    at_us: int


class NodeIsolated(Event):
    """letter: the number of the letter by which its VMs were asked for; 0: by policy they run on there."""

    node: NodeId
    at_us: int
    silences: tuple[Silence, ...] = ()
    letter: int = 0


class NodeLost(Event):
    """What it ran under a lease of this epoch, and where the proof is of everything also the rest, runs there no more. epoch: that
    ended; the node is granted nothing until it has come back clean."""

    node: NodeId
    boot_id: str
    epoch: int
    at_us: int
    proof: Proof


class NodeReturned(Event):
    """epoch: of the lease that it may have from now on."""

    node: NodeId
    boot_id: str
    epoch: int
    at_us: int = 0


# --- the whole (stream ha-main) --------------------------------------------------------------------------------


class Isolated(StrEnum):
    """What is done with the VMs of a node that lives and cannot be reached. leave: they run on. evacuate: it is asked through its
    mailbox to end them, and they start elsewhere upon its word."""

    LEAVE = "leave"
    EVACUATE = "evacuate"


class Reserve(StrEnum):
    """How admission control keeps room: for the VMs of the `nodes` largest nodes, or a percentage of all memory, or none."""

    NODES = "nodes"
    PERCENT = "percent"
    NONE = "none"


class HaSettings(Value):
    """tolerant: leases of 30 s instead of 5, for networks and storage that hiccup together. isolated_s: how long a node is
    unreachable before its VMs are asked for. lost_max: how many nodes are declared lost within window_s without somebody's word.
    starts_max: restarts at once."""

    tolerant: bool = False
    isolated: Isolated = Isolated.EVACUATE
    isolated_s: Seconds = 3.0
    reserve: Reserve = Reserve.NODES
    reserve_nodes: Annotated[int, msgspec.Meta(ge=0, le=64)] = 1
    reserve_pct: Annotated[int, msgspec.Meta(ge=0, le=90)] = 0
    lost_max: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 2
    window_s: Seconds = 300.0
    starts_max: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 16
    relax_apart: bool = True


class SetHa(Command):
    """Change what is named; None stays. nodes: how many there are, filled in by ha's own view."""

    tolerant: bool | None = None
    isolated: Isolated | None = None
    isolated_s: Seconds | None = None
    reserve: Reserve | None = None
    reserve_nodes: Annotated[int, msgspec.Meta(ge=0, le=64)] | None = None
    reserve_pct: Annotated[int, msgspec.Meta(ge=0, le=90)] | None = None
    lost_max: Annotated[int, msgspec.Meta(ge=1, le=1000)] | None = None
    window_s: Seconds | None = None
    starts_max: Annotated[int, msgspec.Meta(ge=1, le=1000)] | None = None
    relax_apart: bool | None = None
    nodes: int = 0


class DisarmHa(Command):
    """Nothing is declared lost, fenced or restarted until it is armed again, or until_us has come (0: no end). Leases go on."""

    reason: str
    until_us: int = 0


class ArmHa(Command):
    pass


class BeginTerm(Tick):
    """A process has the grantor's lock. holder: who."""

    holder: str


class HoldHa(Tick):
    """Nothing is declared lost by itself: the observer doubts itself, or too many nodes went at once. Empty: it may again."""

    sentence: str = ""
    remedy: str = ""


class HaSet(Event):
    settings: HaSettings


class HaDisarmed(Event):
    reason: str
    until_us: int = 0


class HaArmed(Event):
    """over: the time of the disarming was over."""

    over: bool = False


class TermBegan(Event):
    """Who grants leases from now on. No lease counts as spent before wait_us have passed."""

    term: int
    holder: str
    at_us: int
    wait_us: int = 0


class HaHeld(Event):
    sentence: str
    remedy: str = ""


class HaReleased(Event):
    pass


LeaseCommand = SuspectNode | TrustNode | IsolateNode | DeclareLost | ConfirmOff | ReportReturned
LeaseEvent = NodeSuspected | NodeTrusted | NodeIsolated | NodeLost | NodeReturned
HaCommand = SetHa | DisarmHa | ArmHa | BeginTerm | HoldHa
HaEvent = HaSet | HaDisarmed | HaArmed | TermBegan | HaHeld | HaReleased
