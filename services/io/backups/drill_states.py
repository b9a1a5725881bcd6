"""What one VM's recovery drills are; the machine is drawn in drilling.py."""

from __future__ import annotations

from enum import StrEnum

from libs.common.messages import Value
from proto.drills import Drill, DrillPlan


class Phase(StrEnum):
    """waiting: for its turn; recovering: its VM is made; booting: it is started; checking: it runs, and its guest is asked;
    cleaning: its result is known, and its VM is removed."""

    WAITING = "waiting"
    RECOVERING = "recovering"
    BOOTING = "booting"
    CHECKING = "checking"
    CLEANING = "cleaning"


GOES_ON = frozenset({Phase.RECOVERING, Phase.BOOTING, Phase.CHECKING})


class Drilling(Value):
    """A drill that goes on. started_us: its turn came, 0: not yet; all in ms is since then. held: its recovery has not ended; made:
    its VM is defined; runs: that has a process, or is being started, as `generation` on `node`. failed_ms: a start came to nothing;
    sentence: why, or why its recovery ended. tries, until_us: of cleaning up."""

    id: str
    wish: Drill
    asked_us: int
    backup: str = ""
    phase: Phase = Phase.WAITING
    target: str = ""
    recovery: str = ""
    started_us: int = 0
    held: bool = False
    made: bool = False
    runs: bool = False
    node: str = ""
    generation: int = 0
    ran_ms: int | None = None
    agent_ms: int | None = None
    failed_ms: int | None = None
    sentence: str = ""
    tries: int = 0
    until_us: int = 0

    @property
    def deadline_us(self) -> int:
        return self.started_us + self.wish.timeout_s * 1_000_000

    def after_ms(self, now_us: int) -> int:
        """A clock may go back."""
        return max(0, (now_us - self.started_us) // 1000) if self.started_us else 0


class Drills(Value):
    """plan: None: none is wanted by itself. planned_us: its newest time that was seen to, or as it was set. now: at most one goes
    on."""

    plan: DrillPlan | None = None
    planned_us: int = 0
    now: Drilling | None = None
