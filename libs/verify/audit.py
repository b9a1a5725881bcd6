"""Who did what, when, from where, and what became of it: recorded commands as an auditor reads them. Pure."""

from __future__ import annotations

import msgspec

from libs.common.messages import decode_envelope, decode_reply
from libs.verify import Answered

USERS = "user:"


class Act(msgspec.Struct, frozen=True):
    """from_: address and token id, as the gateway saw them; empty for services, and for what was recorded before they were kept.
    outcome: `done`, `nothing` (nothing had to change) or `refused`, with reason and sentence. position: of its first event."""

    at_us: int
    actor: str
    from_: str = msgspec.field(name="from")
    did: str = ""
    object: str = ""
    project: str = ""
    outcome: str = ""
    reason: str = ""
    sentence: str = ""
    position: int = 0
    id: str = ""
    correlation: str = ""


class _Type(msgspec.Struct):
    type: str


_type = msgspec.msgpack.Decoder(_Type).decode


class Filter(msgspec.Struct, frozen=True):
    """actor: `user:NAME`, `service:NAME` …, or NAME of a user; empty: all users; `all`: whoever. object: a stream (`vm-web-1`) or
    what the API calls it (`vm/web-1`). until_us 0: no end."""

    actor: str = ""
    object: str = ""
    until_us: int = 0

    def wants(self, act: Act) -> bool:
        if self.until_us and act.at_us > self.until_us:
            return False
        if self.object and act.object != self.object.replace("/", "-", 1):
            return False
        if self.actor == "all":
            return True
        if not self.actor:
            return act.actor.startswith(USERS)
        return act.actor == (self.actor if ":" in self.actor else USERS + self.actor)


def act(row: Answered) -> Act:
    """Raises msgspec.DecodeError for a row that is none (`log verify` names it)."""
    envelope, reply = decode_envelope(row.payload), decode_reply(row.outcome)
    outcome = "refused" if reply.status == "refused" else "done" if row.position else "nothing"
    return Act(
        row.at_us, envelope.actor, envelope.origin, _type(envelope.data).type, row.stream, envelope.project, outcome, reply.reason,
        reply.sentence, row.position, row.id, envelope.correlation,
    )  # fmt: skip
