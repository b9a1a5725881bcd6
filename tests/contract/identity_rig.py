"""A server with operator mode on, and clients of any identity."""

from __future__ import annotations

from libs.common.bus import Incoming
from libs.common.bus.credentials import Credentials, Key, new_seed
from libs.common.bus.identity import ClusterIdentity
from libs.common.bus.nats import NatsBus
from libs.common.bus.permissions import Grant
from libs.common.clock import SystemClock
from tests.servers import NatsServer

HOUR_S = 3600


class Cluster:
    """A server with operator mode on, and a client for each identity asked for."""

    def __init__(self, identity: ClusterIdentity, server: NatsServer) -> None:
        self.identity = identity
        self.server = server
        self.made: list[NatsBus] = []

    def credentials(self, name: str, grant: Grant | None = None, expires_s: int = HOUR_S) -> Credentials:
        """A control-plane identity with a grant, a node's without."""
        seed, now_us = new_seed("user"), SystemClock().now_us()
        public = Key(seed).public
        if grant is None:
            jwt = self.identity.issue_node(name, public, now_us=now_us, expires_s=expires_s)
        else:
            jwt = self.identity.issue_user(name, public, grant, now_us=now_us, expires_s=expires_s)
        return Credentials.of(name, jwt, seed)

    async def join(self, name: str, grant: Grant | None = None, expires_s: int = HOUR_S) -> NatsBus:
        return await self.enter(self.credentials(name, grant, expires_s))

    async def enter(self, credentials: Credentials) -> NatsBus:
        bus = await NatsBus.connect(self.server.url, credentials)
        self.made.append(bus)
        return bus


async def echo(message: Incoming) -> None:
    await message.respond(message.data)


async def nothing_heard(message: Incoming) -> None:
    raise AssertionError(f"{message.subject} should not have come through")
