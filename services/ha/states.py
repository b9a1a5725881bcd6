"""What a stream of ha can be. Pure.

                   SuspectNode                DeclareLost, ConfirmOff
Trusted ──────────────────────▶ Suspected ─────────────────────────▶ Lost
  ▲ ▲ │                          │  ▲  │                            ▲ │
  │ │ └──────IsolateNode─────────┼──┼──┼─▶ Isolated ── DeclareLost ─┘ │
  │ └────────TrustNode───────────┘  └──┼──────┘                       │
  └─────────────────────── ReportReturned: the next epoch ────────────┘
"""

from __future__ import annotations

from typing import Any

from libs.common.messages import Value
from libs.lease.times import Times, times
from proto.lease import HaSettings, Proof, Silence


class LeaseState(Value, tag=True, kw_only=True):
    """epoch: of the lease that the node has or may have. boot_id: the only boot that is granted it; "": none yet. term: whose
    grantor may conclude something about it. pools, tolerant: the most that can be in the node's hands. letter: number of the last.
    lost_us: when it was lost last in a way that counts towards a storm (wall clock). address: of its watchdog. stuck, networks,
    mute: as NodePathsNoted said last. told_in: as LeaseTaken said last."""

    epoch: int = 1
    boot_id: str = ""
    term: int = 0
    pools: tuple[str, ...] = ()
    tolerant: bool = False
    letter: int = 0
    lost_us: int = 0
    address: str = ""
    stuck: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    told_in: int = 0
    mute: bool = False

    @property
    def times(self) -> Times:
        return times(self.tolerant)


class Trusted(LeaseState, kw_only=True):
    pass


class Suspected(LeaseState, kw_only=True):
    since_us: int
    silences: tuple[Silence, ...] = ()
    planned: str = ""
    unread: tuple[str, ...] = ()


class Isolated(LeaseState, kw_only=True):
    """It lives and cannot be reached. asked: its VMs were asked for by letter number `letter`."""

    since_us: int
    silences: tuple[Silence, ...] = ()
    asked: bool = False


class Lost(LeaseState, kw_only=True):
    """Nothing of `epoch` runs there any more. It is granted nothing."""

    since_us: int
    proof: Proof


Lease = Trusted | Suspected | Isolated | Lost


class Ha(Value):
    """term, holder: who grants. armed: something is concluded from silence. until_us: when it is armed again by itself (0: never).
    held: why nothing is declared just now, though it is armed, and what helps. word_us: nodes that were silent by then are down,
    by somebody's word."""

    settings: HaSettings = HaSettings()
    term: int = 0
    holder: str = ""
    term_us: int = 0
    armed: bool = True
    reason: str = ""
    until_us: int = 0
    held: str = ""
    remedy: str = ""
    word_us: int = 0


def of[L: LeaseState](kind: type[L], lease: LeaseState, **more: Any) -> L:
    """The same lease, standing otherwise."""
    base: dict[str, Any] = {name: getattr(lease, name) for name in LeaseState.__struct_fields__}
    return kind(**base | more)
