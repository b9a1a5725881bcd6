"""What happened in a world, as lines: what befell it, and what its log says. For people, and for `expected.log` of a scenario.

       1.000 power n1 (60 s)
       7.212 NodeLost n1: lease
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from libs.common.messages import Recorded

if TYPE_CHECKING:
    from libs.world.world import World


@dataclass(frozen=True, slots=True)
class Line:
    """us: since the story began."""

    us: int
    text: str

    def __str__(self) -> str:
        return f"{self.us / 1e6:8.3f} {self.text}"


def _plain(*names: str) -> Callable[[Any], str]:
    return lambda event: " ".join(str(getattr(event, name)) for name in names)


EVENTS: dict[str, Callable[[Any], str]] = {
    "VmStartRequested": lambda e: f"{e.vm} on {e.node} as {e.generation}" + (" (failover)" if e.failover else ""),
    "VmStarted": lambda e: f"{e.vm} on {e.node} as {e.generation}",
    "VmStartFailed": lambda e: f"{e.vm} on {e.node}: {e.sentence}",
    "VmStopped": lambda e: f"{e.vm} on {e.node}: {e.cause}",
    "VmStopRequested": _plain("vm", "node"),
    "VmMigrationRequested": lambda e: f"{e.vm} from {e.node} to {e.to}",
    "VmMigrated": lambda e: f"{e.vm} to {e.node}",
    "VmMigrationFailed": lambda e: f"{e.vm}: {e.sentence}",
    "VmMigrationEnded": lambda e: f"{e.vm}",
    "IncarnationBegan": _plain("incarnation"),
    "NodeSuspected": lambda e: f"{e.node}: {', '.join(silence.path for silence in e.silences)}",
    "NodeTrusted": _plain("node"),
    "NodeIsolated": lambda e: f"{e.node}" + (f": asked by letter {e.letter}" if e.letter else ""),
    "NodeLost": lambda e: f"{e.node}: {e.proof.kind} of epoch {e.epoch}",
    "NodeReturned": lambda e: f"{e.node}: epoch {e.epoch}",
    "TermBegan": lambda e: f"{e.term}",
    "HaHeld": lambda e: f"{e.sentence}",
    "HaReleased": lambda e: "",
    "HaDisarmed": lambda e: f"{e.reason}",
    "HaArmed": lambda e: "",
    "VmOwed": lambda e: f"{e.vm}: {e.cause}",
    "RestartWanted": lambda e: f"{e.vm}: attempt {e.attempt}",
    "VmInHand": lambda e: f"{e.vm}: somebody starts it, on {e.node}",
    "VmUnplaced": lambda e: f"{e.vm}: {e.sentence}",
    "VmRestartDenied": lambda e: f"{e.vm}: {e.sentence}",
    "VmRecovered": lambda e: f"{e.vm} on {e.node}",
    "VmPanicked": lambda e: f"{e.vm} on {e.node}",
    "VmRanOutOfSpace": lambda e: f"{e.vm} on {e.node}: {', '.join(disk.pool for disk in e.disks)}",
    "VmSpaceRegained": _plain("vm"),
    "VerdictReached": lambda e: f"{e.vm} on {e.node}: {e.kind}" + (f": {e.sentence}" if e.sentence else ""),
    "FenceTested": lambda e: f"{e.node}: {'well' if e.ok else e.sentence}",
    "FenceRequested": lambda e: f"{e.node}: {e.want}, reads {e.apart_ms} ms apart",
    "FenceConfirmed": lambda e: f"{e.node}: epoch {e.epoch}, {e.sentence}",
    "FenceFailed": lambda e: f"{e.node}: {e.sentence}",
    "FenceDropped": _plain("node"),
    "FenceDoubted": lambda e: f"{e.node}: {e.sentence}",
    "FencePoweredOn": _plain("node"),
    "BackupTaken": lambda e: f"{e.vm} {e.backup}: {e.done.kind}",
    "BackupDeleted": _plain("vm", "backup"),
    "BackupDamaged": _plain("vm", "backup"),
    "RecoveryRequested": lambda e: f"{e.target} from {e.backup} of {e.vm}",
    "DisksRecovered": _plain("vm"),
    "DisksNotRecovered": lambda e: f"{e.vm}: {e.sentence}",
    "DisksHome": _plain("vm"),
    "RecoveryEnded": lambda e: f"{e.target}: {e.end}",
    "GuardEnded": lambda e: f"{e.vm}: {e.sentence}",
}
"""by class: what is told of it, behind its name"""


def tell(world: World) -> list[Line]:
    """In order of time."""
    lines = [Line(us - world.start_us, _befell(step)) for us, step in world.befallen]
    for recorded in _log(world):
        event = world.checker.event(recorded)
        name = type(event).__name__
        if name in EVENTS:
            lines.append(Line(recorded.at_us - world.start_us, f"{name} {EVENTS[name](event)}"))
    return sorted(lines, key=lambda line: line.us)


def _log(world: World) -> list[Recorded]:
    """Also of a log that is away just now."""
    was, world.log.available = world.log.available, True
    try:
        return world.log.read_all_now(world.oldest, 10**9)
    finally:
        world.log.available = was


def _befell(step: Any) -> str:
    span = f" ({step.for_s:g} s)" if step.for_s else ""
    more = " ".join(f"{name}={value}" for name, value in step.more.items())
    return f"{step.do} {step.who}{' ' if more else ''}{more}{span}".rstrip()
