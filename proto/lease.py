"""ha: whether a node is alive, and what proves that it is not (streams `lease-NODE`, `ha-main`).

A suspicion starts nothing. `NodeLost` alone lets VMs start elsewhere, and carries what proves that they do not run there any more.
Grants and sightings are never recorded: they are by the second. What was concluded from them is.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec

from libs.common.messages import Command, Event, Fact, Name, NodeId, Tick, Value
from proto.granting import MUTE as MUTE
from proto.granting import UNKNOWN as UNKNOWN
from proto.granting import AskGrant as AskGrant
from proto.granting import AskLetter as AskLetter
from proto.granting import AskProbe as AskProbe
from proto.granting import AskRecords as AskRecords
from proto.granting import Granted as Granted
from proto.granting import LeaseBeat as LeaseBeat
from proto.granting import Probes as Probes
from proto.granting import Records as Records
from proto.granting import Refuse as Refuse
from proto.granting import Sighting as Sighting
from proto.ha_main import MAIN as MAIN
from proto.ha_main import ArmHa as ArmHa
from proto.ha_main import BeginTerm as BeginTerm
from proto.ha_main import DisarmHa as DisarmHa
from proto.ha_main import HaArmed as HaArmed
from proto.ha_main import HaCommand as HaCommand
from proto.ha_main import HaDisarmed as HaDisarmed
from proto.ha_main import HaEvent as HaEvent
from proto.ha_main import HaHeld as HaHeld
from proto.ha_main import HaReleased as HaReleased
from proto.ha_main import HaSet as HaSet
from proto.ha_main import HaSettings as HaSettings
from proto.ha_main import HoldHa as HoldHa
from proto.ha_main import Isolated as Isolated
from proto.ha_main import RearmHa as RearmHa
from proto.ha_main import Reserve as Reserve
from proto.ha_main import Seconds as Seconds
from proto.ha_main import SetHa as SetHa
from proto.ha_main import TermBegan as TermBegan
from proto.ha_main import Unlinked as Unlinked


class Refusal(StrEnum):
    NODE_UNKNOWN = "NODE_UNKNOWN"
    NODE_ALIVE = "NODE_ALIVE"
    NOT_LOST = "NOT_LOST"
    BAD_PROOF = "BAD_PROOF"
    OLD_TERM = "OLD_TERM"
    BAD_SETTINGS = "BAD_SETTINGS"


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
    word in its record that it ended them (all that it had under the lease: it takes no other until it has come back). operator:
    somebody's recorded word. clean: the node itself came back in another boot and runs nothing."""

    FENCE = "fence"
    LEASE = "lease"
    ACKNOWLEDGED = "acknowledged"
    OPERATOR = "operator"
    CLEAN = "clean"


class Proof(Value):
    """Why nothing of the node's epoch writes any more. Times by the grantor's monotonic clock. For `lease`: granted_us, the
    last grant; seen_us, when the last record (sequence) of each pool was first seen; waited_us: L x (1 + drift) + margin;
    read_us: when the last fresh read was asked for. anew: another boot of the node was asking by then. everything: also what was
    under no lease is known not to run."""

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
    anew: bool = False

    @property
    def everything(self) -> bool:
        return self.kind in (ProofKind.FENCE, ProofKind.OPERATOR, ProofKind.CLEAN)


class TakeLease(Tick):
    """This grantor is about to grant more to that node than was recorded, or may count on less: its boot, the pools by which it may
    renew, the length of its lease. Nothing that is not recorded is granted, so that a later grantor knows what to wait out.
    epoch: of the lease that the node holds by its own word, where a restored log has forgotten when that began; 0: as it is there.
    told_in: the incarnation of the log in which the node itself said how its lease stands."""

    node: Name
    term: int
    boot_id: str
    pools: tuple[str, ...] = ()
    tolerant: bool = False
    address: str = ""
    epoch: int = 0
    told_in: int = 0


class SuspectNode(Tick):
    """Two of the three paths are silent. planned: why that is no surprise, filled in by ha's own view. unread: pools by which it
    may be renewing its lease, and in which nobody can read its record."""

    node: Name
    silences: tuple[Silence, ...] = ()
    planned: str = ""
    unread: tuple[str, ...] = ()


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


class NotePaths(Tick):
    """Of a node that is heard: shared pools (words) in which its record stands still while others' move, and what is wrong with its
    bridges' ways out. Empty: all is well again. move: by policy its VMs are to go where the networks are whole. mute: its watchdog
    says nothing."""

    node: Name
    pools: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    move: bool = False
    mute: bool = False


class ConfirmOff(Command):
    """An operator's word that this node is off, or that what it ran has ended. known: it is a node; alive: what it showed of
    itself just now; at_us. Filled in by ha's own view."""

    node: Name
    reason: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    known: bool = False
    alive: str = ""
    at_us: int = 0


class ForgetNode(Command):
    """It was removed from the cluster, and had no VMs."""

    node: Name


class ReportReturned(Fact):
    """The node has ended all that is no longer its own, and guards nothing: it may have a lease of the next epoch. epoch: the one
    that was ended. at_us: filled in by ha's own view; incarnation: by its host."""

    boot_id: str
    epoch: int
    at_us: int = 0
    incarnation: int = 1


class LeaseTaken(Event):
    """Who grants this node its lease from now on (an append to its stream, so that an earlier grantor's conclusions about it no
    longer fit), and what may be in that node's hands: what a later grantor has to wait out, and to read.
    address: where its watchdog answers probes. told_in: the incarnation of the log in which the node itself said how its lease
    stands; 0: the log was never restored, or it has not said since."""

    node: NodeId
    term: int
    boot_id: str
    at_us: int
    pools: tuple[str, ...] = ()
    tolerant: bool = False
    address: str = ""
    told_in: int = 0


class NodePathsNoted(Event):
    """Its lease goes on by the paths that are left. pools: those in which it cannot write its record, or nobody can read that.
    networks: sentences. move: its VMs are to be moved away. mute: its watchdog says nothing, so that nobody there pauses or ends
    what it guards; none is placed there."""

    node: NodeId
    at_us: int
    pools: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    move: bool = False
    mute: bool = False


class LeaseForgotten(Event):
    """The node is none of the cluster any more. epoch: of the lease that it may have should it join again."""

    node: NodeId
    epoch: int


class NodeSuspected(Event):
    """planned: why its silence, and its loss, count towards no storm (it was cordoned, or ran no VM). unread: pools (words) by
    which it may be renewing its lease, and in which nobody can read its record: as long as that is so, its lease proves nothing.
    Told again when that changes."""

    node: NodeId
    at_us: int
    silences: tuple[Silence, ...] = ()
    planned: str = ""
    unread: tuple[str, ...] = ()


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


class NodeOffProven(Event):
    """It was lost by a proof of what it guarded; by this one nothing else of it runs, either (power off, somebody's word)."""

    node: NodeId
    boot_id: str
    epoch: int
    at_us: int
    proof: Proof


class NodeReturned(Event):
    """epoch: of the lease that it may have from now on. held: it has one of that epoch, which began after what the log was restored
    to, and goes on."""

    node: NodeId
    boot_id: str
    epoch: int
    at_us: int = 0
    held: bool = False


LeaseCommand = (
    TakeLease | SuspectNode | TrustNode | IsolateNode | DeclareLost | NotePaths | ConfirmOff | ForgetNode | ReportReturned
)
LeaseEvent = (
    LeaseTaken
    | NodeSuspected
    | NodeTrusted
    | NodeIsolated
    | NodeLost
    | NodeOffProven
    | NodeReturned
    | NodePathsNoted
    | LeaseForgotten
)
