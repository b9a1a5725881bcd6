"""An agent whose identity is revoked, tried against a real server of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from libs.common.bus import Disconnected, NoResponder
from libs.common.bus import permissions as allowed
from libs.common.bus.credentials import Credentials, Key, new_seed, read_jwt
from libs.common.bus.identity import ClusterIdentity
from libs.common.bus.nats import NatsBus
from libs.common.clock import SystemClock
from tests.contract.identity_rig import Cluster, echo
from tests.servers import NatsServer


async def test_a_revoked_agent_is_thrown_out_and_a_renewed_one_comes_back(tmp_path: Path) -> None:
    identity = ClusterIdentity.create(tmp_path / "identity", SystemClock().now_us())
    with NatsServer(identity.server_config()) as server:
        cluster = Cluster(identity, server)
        seed = new_seed("user")
        public = Key(seed).public
        # Issued in the past: a revocation voids what was issued up to its own second.
        issued_us = SystemClock().now_us() - 60_000_000
        jwt = [identity.issue_node("n1", public, now_us=issued_us)]
        agent = await NatsBus.connect(server.url, Credentials("n1", lambda: jwt[0], lambda: Key(seed)))
        compute = await cluster.join("compute", allowed.service("compute"))
        await agent.serve("order.n1", echo)
        assert await compute.request("order.n1", b"1") == b"1"
        identity.revoke(public, SystemClock().now_us() - 30_000_000)
        (server.folder / "nats.conf").write_text(
            (server.folder / "nats.conf").read_text().replace(_account(server), identity.account_jwt)
        )
        os.kill(server.pid, signal.SIGHUP)
        await _until(lambda: not agent._link.up.is_set())  # later than the client says so: what waits for `up` is to wait
        with pytest.raises(Disconnected):
            await agent.request("fact.n1.compute", b"", timeout_s=0.5)
        jwt[0] = identity.issue_node("n1", public, now_us=SystemClock().now_us())
        await agent._link.await_up(20)
        with pytest.raises(NoResponder):  # the server takes what it is told in order: it knows again what the agent serves
            await agent.request("fact.n1.compute", b"")
        assert await compute.request("order.n1", b"2") == b"2"
        await agent.drain()
        await compute.drain()


def _account(server: NatsServer) -> str:
    lines = (server.folder / "nats.conf").read_text().splitlines()
    preload = [line.split(": ", 1)[1] for line in lines if line.startswith("  A")]
    return next(jwt for jwt in preload if read_jwt(jwt).name == "ASV")


async def _until(true: object, timeout_s: float = 10.0) -> None:
    assert callable(true)
    end = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        await asyncio.sleep(0.01)
