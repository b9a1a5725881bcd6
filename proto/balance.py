"""The rebalancer of compute: what it is told of a cluster, the rules it goes by, what it proposes."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec

from libs.common.messages import Command, Event, Name, NodeId, Tick, Value, VmId
from proto.machine import Priority

AtOnceMax = Annotated[int, msgspec.Meta(ge=1, le=16)]


class NodeLoad(Value):
    """A node that takes part: online. Others are neither left nor entered, nor do they count in the score.

    cordoned      it takes no VMs: it may be left, but not entered, and how evenly it is used does not count, only what its VMs wait
    pcpus         its share of the host's pCPUs (may be a fraction)
    memory_mib    what may be promised to VMs: the right-hand side of both limits of its ledger
    kept_mib      guaranteed to VMs that are not listed; kept_charged_mib: charged for them by ratio
    vcpus_max     vCPUs that may be promised; vcpus_kept: those promised to VMs that are not listed
    """

    node: NodeId
    pcpus: float
    memory_mib: int
    vcpus_max: int
    kept_mib: int = 0
    kept_charged_mib: int = 0
    vcpus_kept: int = 0
    pools: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    cordoned: bool = False


class VmLoad(Value):
    """A VM that runs on a node that takes part.

    memory_mib     what its node's ledger guarantees it, QEMU's own included; charged_mib: what counts for its nominal memory by
                   the ratio of its class. The score takes the larger of the two
    demand_pcpus   CPU time it uses or waits for, in pCPUs, smoothed over minutes; 0 where it is not known
    fixed          why it cannot be moved, in a few words; empty: it can
    vcpus_per_pcpu the limit of over-allocation of its class; 0: that of the node
    parts          where this is a group that moves as a whole: its VMs; counts_mib: what the score takes for them
    together, apart  group names: VMs of one `together` stay on one node, no two of one `apart` come to one
    """

    vm: VmId
    node: NodeId
    vcpus: int
    memory_mib: int
    charged_mib: int = 0
    demand_pcpus: float = 0.0
    priority: Priority = Priority.NORMAL
    together: str = ""
    apart: str = ""
    fixed: str = ""
    pools: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    vcpus_per_pcpu: float = 0.0
    parts: tuple[str, ...] = ()
    counts_mib: int = 0


class ClusterLoad(Value):
    """A cluster at one moment. VMs on nodes that are not listed are left out."""

    nodes: tuple[NodeLoad, ...]
    vms: tuple[VmLoad, ...]


class Weights(Value):
    """What a unit of each term is worth in the score. Memory, vCPUs and CPU are standard deviations over the nodes; excess is a
    sum, so that one node without CPU time to give outweighs many that are merely uneven."""

    memory: float = 1.0
    vcpus: float = 1.0
    cpu: float = 1.0
    excess: float = 4.0


Share = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]


class Rules(Value):
    """When the rebalancer acts, and how much of it at once. All bounds hold whatever the facts say.

    threshold        score above which the cluster counts as uneven; calm_share: it is even again below that part of it
    margin_share     what a plan has to take off the score to be begun, as a part of it
    gain_min         what one move of a normal VM has to gain, times the number of nodes (a move evens out two of them: the more
                     there are, the less of the score that can be); more for VMs of higher class (CLASS_COST)
    hold_s           the cluster must have been uneven for so long
    vm_rest_s        a VM that was moved stays for so long, and so does one whose move failed
    batch_rest_s     after a batch of moves, what it changed is waited for; idle_rest_s: after nothing was found to be worth a move
    move_s_max       a move of which nothing was heard for so long has failed; begin_s_max: one that has not begun
    at_once_max      moves under way at one time; plan_max: moves looked ahead
    busy_share       CPU demand per pCPU above which VMs of a node begin to wait for one another
    """

    threshold: Annotated[float, msgspec.Meta(gt=0.0)] = 0.3
    calm_share: Share = 0.7
    margin_share: Share = 0.1
    gain_min: Annotated[float, msgspec.Meta(gt=0.0)] = 0.12
    hold_s: Annotated[int, msgspec.Meta(ge=0)] = 180
    vm_rest_s: Annotated[int, msgspec.Meta(ge=0)] = 7200
    batch_rest_s: Annotated[int, msgspec.Meta(ge=0)] = 300
    idle_rest_s: Annotated[int, msgspec.Meta(ge=60)] = 3600
    move_s_max: Annotated[int, msgspec.Meta(ge=60)] = 1200
    begin_s_max: Annotated[int, msgspec.Meta(ge=10)] = 30
    at_once_max: AtOnceMax = 2
    plan_max: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 32
    busy_share: Annotated[float, msgspec.Meta(gt=0.0)] = 0.8
    weights: Weights = Weights()


class Move(Value):
    """One VM to one other node, as it is proposed.

    gain    by how much the score falls by this move, when its turn comes (of two moves that only help together, one may raise it)
    batch   moves of one batch may run at once; a batch begins when the one before has ended
    group   the `together` group that moves as a whole; gain and scores are then the group's, the gain in equal parts
    """

    vm: VmId
    origin: NodeId
    target: NodeId
    gain: float
    score_before: float
    score_after: float
    batch: int
    reason: str
    group: str = ""


class Stay(Value):
    """A `together` group that cannot move as a whole, and why."""

    group: str
    vms: tuple[str, ...]
    reason: str


class Plan(Value):
    """score: as it is; planned: once all moves are made. The terms are weighted: they add up to the score. stays: groups that were
    not looked at, GROUPS_SAID_MAX at most."""

    policy: str
    score: float
    planned: float
    terms: dict[str, float]
    planned_terms: dict[str, float]
    moves: tuple[Move, ...] = ()
    stays: tuple[Stay, ...] = ()


class Mode(StrEnum):
    """`advise`: the plan is shown to those who ask, nothing is decided. `auto`: moves are decided as the rules say."""

    ADVISE = "advise"
    AUTO = "auto"


class BalanceShown(Value):
    """What `query.compute.balance` answers. uneven_us: since when it was, in mode `auto`; 0: it is even enough. moving:
    VM -> target, of moves under way. nodes: those that take part; demand_known: VMs whose CPU demand was heard, of vms.
    """

    plan: Plan
    rules: Rules
    mode: Mode = Mode.ADVISE
    uneven_us: int = 0
    moving: dict[str, str] = {}
    nodes: int = 0
    vms: int = 0
    demand_known: int = 0


# --- the stream `balance-cluster` ---------------------------------------------------------------------------------------

CLUSTER = "cluster"


class Refusal(StrEnum):
    MOVES_UNDER_WAY = "MOVES_UNDER_WAY"
    NOTHING_TO_MOVE = "NOTHING_TO_MOVE"


class SetBalance(Command):
    """rules None: those that hold stay."""

    mode: Mode
    rules: Rules | None = None


class LookAtBalance(Tick):
    """Decides something only where the cluster became uneven or even, or a move is due. load: filled in by compute's own view, and
    under_way: the VMs that are being migrated."""

    load: ClusterLoad | None = None
    under_way: tuple[str, ...] | None = None


class ApplyBalance(Command):
    """The first batch of the plan, now, in either mode and however even the cluster is. load, now_us: filled in by compute's own
    view."""

    load: ClusterLoad | None = None
    now_us: int = 0


class NoteMoveEnded(Command):
    """What became of a move: the VM is where it was to go, or it is not."""

    vm: Name
    moved: bool
    now_us: int
    sentence: str = ""


class BalanceSet(Event):
    mode: Mode
    rules: Rules


class ImbalanceBegan(Event):
    """The score rose above the threshold."""

    score: float
    threshold: float
    at_us: int


class ImbalanceEnded(Event):
    score: float
    calm: float


class MovePlanned(Event):
    """Version 2: `source` was `origin`; every other event of a move says source and target.

    A VM is to move; the score is expected to fall by `gain`. waits: it begins, by another event, when one before it has ended.
    group: as in Move."""

    VERSION = 2
    SINCE = 2
    vm: VmId
    source: NodeId
    target: NodeId
    reason: str
    gain: float
    score_before: float
    score_after: float
    policy: str
    at_us: int
    waits: bool = False
    group: str = ""


class NoMoveFound(Event):
    """The cluster is uneven, but nothing is worth a move: it is left for a while."""

    score: float
    planned: float
    sentence: str
    at_us: int


class MoveEnded(Event):
    """left: moves that are still under way or wait for their turn; failed: of this batch, those that came to nothing."""

    vm: VmId
    moved: bool
    sentence: str
    at_us: int
    left: int = 0
    failed: int = 0


BalanceCommand = SetBalance | LookAtBalance | ApplyBalance | NoteMoveEnded
BalanceEvent = BalanceSet | ImbalanceBegan | ImbalanceEnded | MovePlanned | NoMoveFound | MoveEnded
