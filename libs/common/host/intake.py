"""What comes in before anything is decided: is it understood, may it come from there, was it answered before, is it too early."""

from __future__ import annotations

import msgspec

from libs.common.host.jobs import Job
from libs.common.messages import Command, Envelope, Fact, Reply, Tick, decode_envelope, tag_of
from libs.common.registry import Registry, UnknownType

ANSWERED_MAX = 4096
"""answers remembered in memory for repeated command ids; the log knows all"""
ID_MAX = 128
"""characters of a command's id; with a node's name before it (jobs.row_id) it is still one that the log takes"""
PARKED_MAX = 1000
PARKED_US_MAX = 3_000_000
"""how long a command waits for the views to reach what its asker has seen"""


def invalid(sentence: str, remedy: str = "") -> Reply:
    return Reply(status="invalid", reason="INVALID", sentence=sentence, remedy=remedy)


def read(service: str, commands: Registry, data: bytes, node: str) -> tuple[Envelope, Command] | Reply:
    """The command and its envelope, or why it is neither. `node`: whose agent's subject it came on; empty for a command's."""
    try:
        envelope = decode_envelope(data)
        command: Command = commands.decode(envelope.data)
    except UnknownType as unknown:
        known = ", ".join(sorted(commands.classes))
        return invalid(f"{service} knows no command {unknown.name!r}", f"one of: {known}")
    except (msgspec.DecodeError, msgspec.ValidationError) as bad:
        return invalid(f"not a command: {bad}", "msgpack of an Envelope whose data is a Command")
    return _wrong_id(envelope.id) or wrong_source(command, envelope, node) or (envelope, command)


def _wrong_id(id: str) -> Reply | None:
    """A command is kept under its id, which no log takes otherwise."""
    if 0 < len(id) <= ID_MAX and id.isascii() and id.isprintable():
        return None
    return invalid(f"the command's id {id[:80]!r} is none", f"1 to {ID_MAX} printable ASCII characters")


def wrong_source(command: Command, envelope: Envelope, node: str) -> Reply | None:
    """Facts come from the node they are about, on its own subject; everything else never comes from a node."""
    if isinstance(command, Fact):
        if command.node != node:
            where = f"node {node}" if node else "no node"
            return invalid(f"a fact about node {command.node} came from {where}", "each agent reports its own node")
        return None
    if node:
        return invalid(f"{tag_of(type(command))} is not a fact; node {node} may only report facts")
    if isinstance(command, Tick):
        return invalid("ticks are made by the service itself")
    if not envelope.actor:
        return invalid("the command names no actor", "the gateway signs who asks into each command")
    return None


def of_the_past(command: Command, incarnation: int) -> Reply | None:
    """Why this service may not answer an agent that has met a later incarnation of the log than the service itself."""
    if not isinstance(command, Fact) or command.heard <= incarnation:
        return None
    said = f"the log is at incarnation {command.heard}, this service at {incarnation}"
    return Reply(status="unavailable", reason="FENCED", sentence=said, remedy="ask again")


class Answered:
    """The latest answers by command id, in two generations: the older is forgotten whole."""

    def __init__(self) -> None:
        self._young: dict[str, Reply] = {}
        self._old: dict[str, Reply] = {}

    def get(self, id: str) -> Reply | None:
        return self._young.get(id) or self._old.get(id)

    def note(self, job: Job, reply: Reply) -> None:
        """Facts are answered anew each time, and `unavailable` is no answer to remember."""
        if reply.status == "unavailable" or isinstance(job.command, Fact):
            return
        self._young[job.envelope.id] = reply
        if len(self._young) > ANSWERED_MAX // 2:
            self._old, self._young = self._young, {}


class Parking:
    """Commands whose askers have seen more of the log than the views have. Each waits a bounded while."""

    def __init__(self) -> None:
        self._parked: list[tuple[int, Job]] = []

    def __len__(self) -> int:
        return len(self._parked)

    def park(self, job: Job, now_us: int) -> Reply | None:
        """None: it waits."""
        if len(self._parked) >= PARKED_MAX:
            return Reply(status="unavailable", reason="BUSY", sentence="the views are far behind", remedy="ask again")
        self._parked.append((now_us + PARKED_US_MAX, job))
        return None

    def leave(self, position: int, now_us: int) -> tuple[list[Job], list[Job]]:
        """(those whose time has come, those who waited too long)."""
        ready = [job for _, job in self._parked if job.envelope.seen <= position]
        late = [job for until_us, job in self._parked if job.envelope.seen > position and until_us < now_us]
        self._parked = [(u, job) for u, job in self._parked if job.envelope.seen > position and u >= now_us]
        return ready, late
