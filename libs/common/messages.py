"""What every message looks like, on the wire and in the log.

A message is a frozen, keyword-only msgspec Struct whose wire name is the snake-case of its class name.
Commands are wishes, imperative; facts are commands that only a node agent may send; events are past tense,
stored for ever. Times are microseconds since the epoch (UTC), written by whoever the field's name says.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, NewType, dataclass_transform

import msgspec

NodeId = NewType("NodeId", str)
VmId = NewType("VmId", str)

DNS_LABEL = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"
Name = Annotated[str, msgspec.Meta(pattern=DNS_LABEL, max_length=63)]
"""A DNS label (RFC 1123): lower-case letters, digits and inner hyphens, at most 63 characters."""


def snake(name: str) -> str:
    """`VmStarted` -> `vm_started`: the wire name of a message class."""
    return "".join("_" + c.lower() if c.isupper() else c for c in name).lstrip("_")


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(msgspec.field,))
class _MessageMeta(msgspec.StructMeta):
    """Makes every subclass frozen and keyword-only, so that no message has to say so itself."""

    def __new__(mcls, name: str, bases: tuple[type, ...], ns: dict[str, Any], **config: Any) -> Any:
        return super().__new__(mcls, name, bases, ns, **{"frozen": True, "kw_only": True, "gc": False} | config)


class Value(msgspec.Struct, metaclass=_MessageMeta, omit_defaults=True):
    """A part of a message or of a state; it has no wire name of its own."""


class Message(msgspec.Struct, metaclass=_MessageMeta, tag=snake, tag_field="type"):
    """A value that crosses a process boundary under its own name."""

    VERSION: ClassVar[int] = 1


class Command(Message, forbid_unknown_fields=True):
    """A wish. May be refused. Recorded with its outcome, so that a repeated id answers the same."""


class Fact(Command, forbid_unknown_fields=False, kw_only=True):
    """What an agent saw. Counts only when it arrives on that node's own subject (see Host). heard: the highest incarnation of the
    log that its agent has met; a service of an older one is of the past and does not answer it."""

    node: NodeId
    heard: int = 0


class Hello(Fact):
    """An agent has (re)connected: the host, not a decider, hears it and sends every order of that node again."""

    boot_id: str = ""


class Tick(Command):
    """Time has passed. Sent by a service to its own stream; recorded only when it decided something."""

    now_us: int


class Event(Message):
    """A decision or a seen fact. Never refused, readable for ever. SINCE: the protocol that brought this VERSION; before the
    cluster is finalized at it, the version before is written."""

    SINCE: ClassVar[int] = 1


class Trace(Value):
    """W3C trace context; empty when the request is not sampled."""

    parent: str = ""


class Envelope(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A command on its way. `data` is the msgpack of the Command, whose own tag names the type.

    actor        who asks: `user:NAME`, `node:NODE`, `service:NAME`; set by the gateway or the host, never by a guest
    project      tenancy scope of the object; `default` where nothing else was said
    correlation  the id of the request or fault at the root of the story (also the task id); own id when empty
    causation    the id of the event that led to this command, `INCARNATION-POSITION`; empty at the root
    at_us        the sender's clock
    seen         the log's position that the asker has seen: the service decides once its views are there too, so that who
                 has seen an image imported may use it at once
    origin       where the request came from, as the gateway saw it: `ADDRESS token:ID`; empty for the services' own commands
    """

    id: str
    data: msgspec.Raw
    actor: str = ""
    project: str = "default"
    owner: str = ""
    correlation: str = ""
    causation: str = ""
    at_us: int = 0
    trace: str = ""
    seen: int = 0
    origin: str = ""


class Reply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The answer to a command.

    status    `accepted` (position of its first event, 0 when nothing had to change), `refused` (the rules say no),
              `invalid` (not understood, nothing was recorded), `unavailable` (not decided; ask again)
    reason    a stable upper-case word; sentence: what was wrong; remedy: what would be right
    """

    status: str
    reason: str = ""
    sentence: str = ""
    remedy: str = ""
    stream: str = ""
    version: int = 0
    position: int = 0
    task: str = ""


class Meta(msgspec.Struct, frozen=True, array_like=True):
    """Who, why and when, beside each event. New fields go at the end, with a default."""

    command: str
    causation: str
    correlation: str
    actor: str
    observed_us: int
    trace: str = ""
    project: str = "default"
    owner: str = ""


class Recorded(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An event as it lies in the log and as it is published. `data` and `meta` are msgpack, decoded on demand.

    position  global, gap-free, from 1; version: in its stream, gap-free, from 1
    at_us     the writer's clock, never decreasing along positions
    """

    position: int
    stream: str
    version: int
    type: str
    v: int
    at_us: int
    data: bytes
    meta: bytes


class Delivered(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An event as it is published: with the incarnation of the log it comes from. After a restore the same positions are given
    again, and what was published before must not be taken for them."""

    incarnation: int
    event: Recorded


GENERATIONS_BITS = 32
"""generations a log may give in one incarnation, as a power of two"""


def floor_of(incarnation: int) -> int:
    """Generations that this incarnation decides are above it, and above all that earlier ones can have decided."""
    return (incarnation - 1) << GENERATIONS_BITS


def incarnation_of(generation: int) -> int:
    """The incarnation of the log that decided this generation."""
    return (max(generation, 1) - 1 >> GENERATIONS_BITS) + 1


encode = msgspec.msgpack.Encoder().encode
decode_envelope = msgspec.msgpack.Decoder(Envelope).decode
decode_reply = msgspec.msgpack.Decoder(Reply).decode
decode_meta = msgspec.msgpack.Decoder(Meta).decode
decode_recorded = msgspec.msgpack.Decoder(Recorded).decode
decode_delivered = msgspec.msgpack.Decoder(Delivered).decode


def tag_of(message: type[msgspec.Struct]) -> str:
    """The wire name of a message class."""
    return str(message.__struct_config__.tag)
