"""What the agent's steppers want done, and what they keep on disk."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from libs.common.messages import Fact
from proto.machine import Disk, MachineSpec, Nic
from proto.node import Heard
from services.node.drivers import AT_HAND, Move

type Stamp = tuple[int, int, int]
"""Which order is the newer: generation, incarnation of the log, version of its stream."""


NODE_RECORD = "_node"
"""the record of the node itself, beside its VMs': only its incarnation means something"""


class Kept(msgspec.Struct, frozen=True):
    """What lies on disk about one VM: the newest order seen, and whether a start under that generation was begun. sent: the
    generation that its guest was sent to whole, on another node; from then on it never runs here under its own. disks, nics: what
    it was last ordered to have, for a log that has lost it."""

    vm: str
    generation: int
    version: int
    launched: bool = False
    incarnation: int = 1
    sent: int = 0
    disks: tuple[Disk, ...] = ()
    nics: tuple[Nic, ...] = ()

    @property
    def stamp(self) -> Stamp:
        return self.generation, self.incarnation, self.version


@dataclass(frozen=True, slots=True)
class Persist:
    """Write this durably, then `on_persisted(kept)`."""

    kept: Kept


@dataclass(frozen=True, slots=True)
class Act:
    """Let the driver do `verb` (start, shutdown, kill, pause, resume, reset, fit, look, witness; receive, activate, send, recall),
    then `on_done(vm, verb, error, machine)`. address: where to send; move: what else a guest's way needs. guards: it is guarded
    from then on, and was not before."""

    vm: str
    verb: str
    spec: MachineSpec | None = None
    trace: str = ""
    address: str = ""
    move: Move = AT_HAND
    guards: bool = False


@dataclass(frozen=True, slots=True)
class AnswerOrder:
    ref: object
    heard: Heard


@dataclass(frozen=True, slots=True)
class SendFact:
    """Request `fact.<node>.<service>`; then `on_reply(key, serial, reply)`; without an answer it is repeated by time."""

    key: str
    serial: int
    service: str
    fact: Fact
    correlation: str = ""
    trace: str = ""


@dataclass(frozen=True, slots=True)
class Greet:
    """Say hello to all services until each has heard, with this incarnation as the greeting that is answered."""

    greeting: int


type NodeEffect = Persist | Act | AnswerOrder | SendFact | Greet
