"""How a node comes to take part: a one-time token and the public half of a key that the agent made for itself.

The token is used up by one atomic update; then compute is told (JoinNode), then the agent gets its signed identity. A known
node may join again with the same key; another key under its name is refused until the node was removed.
"""

from __future__ import annotations

from typing import Annotated, Protocol

import msgspec

from libs.common.messages import Envelope, Name, encode
from proto.compute import JoinNode
from services.gateway.commands import Commands
from services.gateway.problems import Problem, problem_of
from services.gateway.tokens import TokenStore, digest
from services.gateway.views.nodes import NodesView

PublicKey = Annotated[str, msgspec.Meta(pattern=r"^U[A-Z2-7]{55}$", max_length=56)]
"""The public half of a NATS user nkey."""
JoinToken = Annotated[str, msgspec.Meta(min_length=20, max_length=100)]


class Join(msgspec.Struct, forbid_unknown_fields=True):
    """token: one-time, from an admin; public_key: `U…`, of the key pair that the agent made and keeps."""

    token: JoinToken
    node: Name
    public_key: PublicKey


class Joined(msgspec.Struct):
    """jwt: the agent's identity on the bus, good only together with its private key."""

    jwt: str
    nats_url: str


class Issuer(Protocol):
    """Signs identities of agents."""

    def issue(self, node: str, public_key: str) -> str:
        """A user JWT whose rights are those of that node. Raises ValueError for a key that is none."""
        ...


async def admit(
    join: Join, *, issuer: Issuer, tokens: TokenStore, nodes: NodesView, commands: Commands, nats_url: str
) -> Joined:
    """Raises Problem: 401 for a token that does not count, 409 for a name with another key, 503 when nobody decides."""
    try:
        jwt = issuer.issue(join.node, join.public_key)
    except ValueError as error:
        remedy = "send the public half of a NATS user nkey (U…)"
        raise Problem(400, "BAD_KEY", f"public_key: {error}", remedy, field="public_key") from error
    known, hash, now_us = nodes.all.get(join.node), digest(join.token), commands.clock.now_us()
    if known is not None and known.key != join.public_key and await tokens.join_counts(hash, now_us):
        raise _other_key(join.node)
    if not await tokens.use_join(hash, join.node, now_us):
        text = "the join token is unknown, expired or used"
        raise Problem(401, "BAD_JOIN_TOKEN", text, "ask an admin for a new one: POST /v1/tokens/join")
    try:
        await _tell_compute(join, commands)
    except Problem as problem:
        if problem.body.status == 503:
            await tokens.give_back_join(hash, join.node)
        raise
    return Joined(jwt, nats_url)


def _other_key(node: str) -> Problem:
    text = f"the node `{node}` has joined with another key"
    return Problem(409, "NODE_KNOWN", text, "join under another name, or have an admin remove that node first")


async def _tell_compute(join: Join, commands: Commands) -> None:
    envelope = Envelope(
        id=commands.clock.new_id(),
        data=msgspec.Raw(encode(JoinNode(node=join.node, key=join.public_key))),
        actor="service:gateway",
        at_us=commands.clock.now_us(),
    )
    reply = await commands.send("compute", f"node-{join.node}", envelope)
    if reply.status != "accepted":
        raise problem_of(reply)
    await commands.follower.reach(reply.position, 1.0)
