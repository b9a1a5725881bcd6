"""Engines that are somebody else's: nothing is embedded, and the cluster works on them."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
from pathlib import Path

import asyncpg
import pytest

from tests.e2e.conftest import EmbeddedCluster
from tests.servers import NatsServer, Postgres


@pytest.mark.timeout(120)
def test_existing_servers_are_used_and_none_is_started() -> None:
    home = Path(tempfile.mkdtemp(prefix="asv-ext"))
    home.chmod(0o755)
    with Postgres() as postgres, NatsServer() as nats:

        async def database() -> None:
            admin = await asyncpg.connect(postgres.dsn())
            await admin.execute("create database asv")
            await admin.close()

        asyncio.run(database())
        cluster = EmbeddedCluster(home)
        cluster.env |= {"ASV_POSTGRES_DSN": postgres.dsn("asv"), "ASV_NATS_URL": nats.url}
        try:
            said = cluster.cluster("up", "--driver", "simulated")
            assert "the bus asks nobody who they are" in said
            running = set(json.loads((home / "cluster.json").read_text())["children"])
            assert running == {"host", "gateway", "n1", "n2", "n3"}
            cluster.ctl("vm", "create", "a", "--memory", "128MiB", "--image", "tiny", "--wait")
            assert cluster.json("vm", "show", "a")["state"] == "running"
        finally:
            cluster.cluster("destroy", "--yes")
            shutil.rmtree(home, ignore_errors=True)
