"""A part of io's view of itself: VMs that were recovered, and of which nobody has heard the guest's agent yet. Pure.

    RecoveryRequested ──▶ its disks stand on the backup, and it runs: it is asked ──▶ RecoveryAgentHeard
                     another recovery of it, its end, its deletion: nobody asks any more
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from libs.common.host import hearing
from libs.common.messages import Recorded
from proto.compute import VmDeleted, VmFound, VmStarted, VmStopped
from proto.io import DisksRecovered, EndKind, RecoveryEnded, RecoveryRequested
from proto.recovery import AnswerRecovery, AskedAgent, RecoveryAgentHeard


@dataclass(slots=True)
class Mute:
    """ordered_us: of the log. standing: its disks are on the backup. node, generation: where it runs; empty: it does not."""

    source: str
    recovery: str
    ordered_us: int
    standing: bool = False
    node: str = ""
    generation: int = 0


@dataclass(slots=True)
class AgentViews:
    """mute: by the VM that was made."""

    mute: dict[str, Mute] = field(default_factory=dict)

    def known(self, command: AnswerRecovery, now_us: int) -> AskedAgent:
        for one in self.mute.values():
            if (one.source, one.recovery) == (command.vm, command.recovery):
                return AskedAgent(ordered_us=one.ordered_us, generation=one.generation, at_us=now_us)
        return AskedAgent()

    def _asked(self, recorded: Recorded, event: RecoveryRequested) -> None:
        """What a drill makes is asked by that."""
        self.mute.pop(event.target, None)
        if not event.drill:
            self.mute[event.target] = Mute(event.vm, event.recovery, recorded.at_us)

    def _over(self, event: RecoveryEnded | RecoveryAgentHeard) -> None:
        """One that is independent may be booting still."""
        one = self.mute.get(event.target)
        if one is None or (one.source, one.recovery) != (event.vm, event.recovery):
            return
        if isinstance(event, RecoveryAgentHeard) or event.end is not EndKind.INDEPENDENT:
            del self.mute[event.target]

    def _lives(self, event: Any) -> None:
        if (one := self.mute.get(event.vm)) is None:
            return
        match event:
            case DisksRecovered():
                one.standing = one.standing or (event.source, event.recovery) == (one.source, one.recovery)
            case VmStarted() | VmFound() if one.standing:
                one.node, one.generation = event.node, event.generation
            case VmStopped():
                one.node, one.generation = "", 0
            case VmDeleted():
                del self.mute[event.vm]

    HEARS: ClassVar[hearing.Heard] = {
        RecoveryRequested: lambda part, recorded, event: part._asked(recorded, event),
        **dict.fromkeys((RecoveryEnded, RecoveryAgentHeard), lambda part, recorded, event: part._over(event)),
        **dict.fromkeys(
            (DisksRecovered, VmStarted, VmFound, VmStopped, VmDeleted), lambda part, recorded, event: part._lives(event)
        ),
    }
