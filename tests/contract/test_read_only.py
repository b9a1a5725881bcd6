"""What looks into the past changes nothing: its role may write no table and call no function that does, and each of the tools needs
no other role than that one."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import asyncpg
import httpx
import pytest

from libs.common.log.postgres import PostgresLog
from tests.past_rig import copy, failover
from tests.servers import NatsServer, Postgres, wait_until

ROOT = Path(__file__).parents[2]
RELATIONS = """
select c.relname, c.relkind::text, (select quote_ident(attname) from pg_attribute where attrelid = c.oid and attnum = 1)
from pg_class c join pg_namespace n on n.oid = c.relnamespace where n.nspname = 'asv' and c.relkind in ('r', 'p', 'v', 'm', 'S')
"""
FUNCTIONS = """
select p.proname, p.pronargs, p.prorettype = 'trigger'::regtype, p.oid
from pg_proc p join pg_namespace n on n.oid = p.pronamespace where n.nspname = 'asv'
"""
WRITES = (
    "insert into asv.{0} default values", "update asv.{0} set {1} = {1}", "delete from asv.{0}", "truncate asv.{0}",
    "drop table asv.{0}", "alter table asv.{0} add column mine int", "lock table asv.{0} in row exclusive mode",
    "create index on asv.{0} ({1})", "create trigger mine before insert on asv.{0} execute function asv.raise_incarnation()",
)  # fmt: skip
REFUSED = (asyncpg.InsufficientPrivilegeError,)


@pytest.fixture
async def filled(postgres: Postgres, database: str) -> str:
    """The name of a database that holds a failover."""
    log = await PostgresLog.open(postgres.dsn(database, "asv_service"))
    await copy(failover(), log)
    await log.close()
    return database


async def digests(postgres: Postgres, database: str) -> dict[str, tuple[int, str]]:
    """Of what each table holds: (rows, digest)."""
    connection = await asyncpg.connect(postgres.dsn(database))
    try:
        tables = [name for name, kind, _ in await connection.fetch(RELATIONS) if kind in "rp"]
        query = "select count(*), coalesce(md5(string_agg(t::text, '|' order by t::text)), '') from asv.{} t"
        found = {name: await connection.fetchrow(query.format(name)) for name in tables}
        return {name: (int(row[0]), str(row[1])) for name, row in found.items() if row is not None}
    finally:
        await connection.close()


async def test_the_reader_writes_no_table_and_calls_no_function(postgres: Postgres, filled: str) -> None:
    admin = await asyncpg.connect(postgres.dsn(filled))
    relations, functions = await admin.fetch(RELATIONS), await admin.fetch(FUNCTIONS)
    await admin.close()
    before = await digests(postgres, filled)
    assert {"events", "commands", "kept_snapshots", "tokens", "secrets", "log_head"} <= before.keys() and before["events"][0] > 100
    reader = await asyncpg.connect(postgres.dsn(filled, "asv_reader"))
    await reader.execute("set default_transaction_read_only = off")
    for name, kind, column in relations:
        for write in WRITES if kind in "rp" else ():
            with pytest.raises(REFUSED):
                async with reader.transaction():
                    await reader.execute(write.format(name, column))
        if kind == "S":
            with pytest.raises(REFUSED):
                await reader.execute(f"select nextval('asv.{name}')")
    assert {"append_batch", "add_partition", "raise_incarnation"} <= {name for name, *_ in functions}
    for name, count, triggers, oid in functions:
        if not triggers:  # those nobody can call
            with pytest.raises(REFUSED):
                await reader.execute(f"select asv.{name}({', '.join(['null'] * count)})")
        assert not await reader.fetchval("select has_function_privilege($1::oid, 'execute')", oid), name
    with pytest.raises(REFUSED):
        await reader.execute("create table asv.mine (one int)")
    for role in ("asv_owner", "asv_service", "asv_gateway"):
        with pytest.raises(REFUSED):
            await reader.execute(f"set role {role}")
    await reader.close()
    assert await digests(postgres, filled) == before


@asynccontextmanager
async def readers_only(postgres: Postgres, database: str) -> AsyncIterator[str]:
    """A database that lets nobody in but asv_reader (and the server's own superuser): its DSN."""
    admin = await asyncpg.connect(postgres.dsn())
    await admin.execute(f"revoke connect on database {database} from public")
    await admin.execute(f"grant connect on database {database} to asv_reader")
    await admin.close()
    with pytest.raises(REFUSED):
        await asyncpg.connect(postgres.dsn(database, "asv_service"))
    yield postgres.dsn(database, "asv_reader")


@pytest.mark.parametrize(
    "words",
    [
        ("log", "verify"), ("replay", "--service", "ha"), ("replay", "--service", "compute"), ("audit",),
        ("what-if", "--kill", "node/n2", "--tries", "1"),
    ],
    ids=" ".join,
)  # fmt: skip
async def test_each_tool_does_with_the_reader_alone(postgres: Postgres, filled: str, words: tuple[str, ...]) -> None:
    before = await digests(postgres, filled)
    async with readers_only(postgres, filled) as dsn:
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "services.cli", *words, "--log", dsn, cwd=ROOT, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT, env={k: v for k, v in os.environ.items() if not k.startswith("ASV_")},
        )  # fmt: skip
        said, _ = await child.communicate()
    assert child.returncode == 0, said.decode()
    assert await digests(postgres, filled) == before


@contextmanager
def served(postgres: Postgres, database: str, folder: Path) -> Iterator[str]:
    """A gateway's own process, as a cluster starts it: its address, once it serves."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        listen = f"127.0.0.1:{free.getsockname()[1]}"
    with NatsServer() as nats, (folder / "log").open("wb") as out:
        env = {k: v for k, v in os.environ.items() if not k.startswith("ASV_")} | {
            "ASV_POSTGRES_DSN": postgres.dsn(database, "asv_gateway"), "ASV_READER_DSN": postgres.dsn(database, "asv_reader"),
            "ASV_NATS_URL": nats.url, "ASV_READY": str(folder / "ready"), "ASV_ADMIN_TOKEN_FILE": str(folder / "token"),
            "ASV_LISTEN": listen,
        }  # fmt: skip
        child = subprocess.Popen([sys.executable, "-m", "services.gateway"], cwd=ROOT, env=env, stdout=out, stderr=out)
        try:
            wait_until((folder / "ready").exists, child, folder / "log", "gateway")
            yield f"http://{listen}"
        finally:
            child.terminate()
            child.wait()


async def test_the_gateway_reads_the_past_as_the_reader(postgres: Postgres, filled: str, tmp_path: Path) -> None:
    """Once its own role is not let to events any more, it still answers of then."""
    with served(postgres, filled, tmp_path) as url:
        admin = await asyncpg.connect(postgres.dsn(filled))
        await admin.execute("revoke select on asv.events, asv.commands, asv.kept_snapshots from asv_gateway")
        then = int(await admin.fetchval("select position from asv.log_head")) - 10
        headers = {"Authorization": f"Bearer {(tmp_path / 'token').read_text().strip()}"}
        async with httpx.AsyncClient(base_url=url, headers=headers, trust_env=False, timeout=20) as client:
            vms = (await client.get("/v1/vms", params={"at": then})).json()["items"]
            assert vms
            of_vm = f"/v1/why/vm/{vms[0]['name']}"
            assert (await client.get(of_vm, params={"at": then})).json()["stories"]
            assert (await client.get("/v1/why/event/10", params={"at": then})).json()["stories"]
            assert (await client.get(f"/v1/timeline/vm/{vms[0]['name']}", params={"at": then})).json()["items"]
            assert (await client.get("/v1/diff", params={"from": 3, "to": then})).json()["changes"]
            assert (await client.get("/v1/cluster", params={"at": then})).json()["position"] == then
            assert (await client.get(of_vm)).status_code == 503, "of now it asks as itself"
        connected = "select count(*) from pg_stat_activity where datname = $1 and usename = 'asv_reader'"
        assert await admin.fetchval(connected, filled)
        await admin.close()
