"""What a stepper wants done. The driver (asyncio) or the world (simulation) does it and steps it again with what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from libs.common.bus import Published
from libs.common.log import Group
from libs.common.messages import NodeId, Reply


@dataclass(frozen=True, slots=True)
class Append:
    """Append the group, then `on_appended(token, result)`; after LogError `on_append_failed(token)`. what, trace: the command and
    its trace context, for the span (a group of reactions: its first)."""

    token: int
    group: Group
    what: str = ""
    trace: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """Answer the command that came with this reference."""

    ref: object
    reply: Reply


@dataclass(frozen=True, slots=True)
class ReadStream:
    """Read the stream behind `after`, then `on_stream_read(stream, records)`."""

    stream: str
    after: int


@dataclass(frozen=True, slots=True)
class SendOrder:
    """Request `order.<node>`; then `on_heard(stream, version, node)` if an answer came. Unanswered is repeated by time."""

    stream: str
    version: int
    node: NodeId
    data: bytes
    trace: str = ""


@dataclass(frozen=True, slots=True)
class Bug:
    """A decision raised something that is not a refusal. The driver logs it with its traceback and counts it."""

    where: str
    error: BaseException


@dataclass(frozen=True, slots=True)
class Read:
    """Relay: read the log behind `after`, at most `limit`, then `on_records`; with nothing there, wait for the head to move."""

    after: int
    limit: int


@dataclass(frozen=True, slots=True)
class Publish:
    """Relay: publish in order, then `on_published(ok)`."""

    events: Sequence[Published]


@dataclass(frozen=True, slots=True)
class SaveMark:
    """Relay: store how far was published; nothing waits for it."""

    group: Group


type Effect = Append | Answer | ReadStream | SendOrder | Bug
