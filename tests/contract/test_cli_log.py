"""`asvctl log verify`, `log checkpoint` and `audit` over a real database: what is said, and the exit codes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import msgspec
import pytest

from libs.common.bus.credentials import new_seed, write_private
from libs.common.log import CommandRow, Group, Unit
from libs.common.log.batch import Batch
from libs.common.log.migrate import migrate
from libs.common.log.postgres import PostgresLog
from libs.common.messages import Envelope, Reply, encode
from tests.contract.cli_rig import Ctl
from tests.contract.test_eventlog import events
from tests.contract.test_verify_before import as_before
from tests.contract.verify_rig import write
from tests.servers import Postgres

NAME = "asv_cli_log"


def asked(n: int, actor: str, vm: str, status: str = "accepted") -> Unit:
    envelope = Envelope(
        id=f"a-{n}", data=msgspec.Raw(encode({"type": "start_vm", "vm": vm})), actor=actor, origin=f"10.0.0.{n} token:t{n}"
    )
    refused = status == "refused"
    reply = Reply(status=status, reason="NO_ROOM" if refused else "", sentence="n1 has 3 GiB left" if refused else "")
    return Unit(f"vm-{vm}", 0, () if refused else events(1), CommandRow(f"a-{n}", encode(envelope), encode(reply)))


async def fill(postgres: Postgres) -> None:
    admin = await asyncpg.connect(postgres.dsn())
    await admin.execute(f"create database {NAME}")
    await admin.close()
    await migrate(postgres.dsn(NAME))
    log = await PostgresLog.open(postgres.dsn(NAME, "asv_service"))
    units = (asked(1, "user:ops", "a"), asked(2, "user:eve", "b", "refused"), asked(3, "service:ha", "c"))
    await log.append(Group(units))
    await log.close()


async def run(postgres: Postgres, statement: str) -> None:
    owner = await asyncpg.connect(postgres.dsn(NAME))
    await owner.execute(statement)
    await owner.close()


@pytest.fixture
def dsn(postgres: Postgres) -> Iterator[str]:
    asyncio.run(fill(postgres))
    yield postgres.dsn(NAME, "asv_reader")
    admin = "drop database asv_cli_log with (force)"
    asyncio.run(_drop(postgres, admin))


async def _drop(postgres: Postgres, statement: str) -> None:
    admin = await asyncpg.connect(postgres.dsn())
    await admin.execute(statement)
    await admin.close()


def test_who_did_what_from_where(ctl: Ctl, dsn: str) -> None:
    found = ctl("audit", "--log", dsn, "--json").json
    assert [(a["actor"], a["from"], a["did"], a["object"], a["outcome"], a["reason"]) for a in found] == [
        ("user:eve", "10.0.0.2 token:t2", "start_vm", "vm-b", "refused", "NO_ROOM"),
        ("user:ops", "10.0.0.1 token:t1", "start_vm", "vm-a", "done", ""),
    ]
    assert ctl("audit", "--log", dsn, "--actor", "eve").out.count("refused: NO_ROOM: n1 has 3 GiB left") == 1
    assert len(ctl("audit", "--log", dsn, "--actor", "all", "--json").json) == 3
    assert ctl("audit", "--log", dsn, "--object", "vm/zzz", "--json").json == []
    assert ctl("audit", "--log", dsn, "--since", "soon").code == 2


def test_a_log_that_does_not_hold_ends_with_1(ctl: Ctl, dsn: str, postgres: Postgres) -> None:
    """Its events are not of this release either (they are a test's): those faults are told, and the others beside them."""
    asyncio.run(run(postgres, "update asv.events set type = 'no_such' where position = 2"))
    said = ctl("log", "verify", "--log", dsn, "--json")
    assert said.code == 1
    assert said.json["holds"] is False
    named = {(fault["where"], fault["what"]) for fault in said.json["faults"]}
    assert ("position 2", "its content is not what was written: its digest is another") in named
    assert ("position 2", "is of type no_such (version 1), which this release does not know") in named
    assert "The log does not hold." in ctl("log", "verify", "--log", dsn).out


def test_positions_that_are_not_there(ctl: Ctl, dsn: str) -> None:
    said = ctl("log", "verify", "--log", dsn, "--from", "7000")
    assert (said.code, "the log ends at 2" in said.err) == (2, True)
    assert ctl("log", "verify", "--log", dsn, "--from", "2", "--to", "1").code == 2
    assert ctl("log", "verify", "--log", "postgresql://asv_reader@/none?host=/nowhere").code == 4


def test_a_checkpoint_is_written_once_and_held_against_the_log(
    ctl: Ctl, dsn: str, postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    (home / "keys").mkdir(parents=True)
    write_private(home / "keys" / "operator.seed", new_seed("operator"))
    monkeypatch.setenv("ASV_HOME", str(home))
    file = tmp_path / "today.json"
    assert ctl("log", "checkpoint", str(file), "--log", dsn).code == 0
    assert ctl("log", "checkpoint", str(file), "--log", dsn).code == 2, "it is there already"
    faults = ctl("log", "verify", "--log", dsn, "--checkpoint", str(file), "--json").json["faults"]
    assert not [fault for fault in faults if fault["where"].startswith("checkpoint")]
    asyncio.run(run(postgres, "update asv.log_batches set hash = sha256('x'); update asv.log_head set hash = sha256('x')"))
    faults = ctl("log", "verify", "--log", dsn, "--checkpoint", str(file), "--json").json["faults"]
    assert [fault["where"] for fault in faults if fault["where"].startswith("checkpoint")] == ["checkpoint at 2"]
    write_private(home / "keys" / "operator.seed", new_seed("operator"))
    said = ctl("log", "verify", "--log", dsn, "--checkpoint", str(file))
    assert (said.code, "of another cluster, or forged" in said.err) == (2, True)
    file.write_bytes(file.read_bytes()[:-30])
    assert ctl("log", "verify", "--log", dsn, "--checkpoint", str(file)).code == 2


async def test_a_log_of_the_release_before_holds_and_goes_on(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its batches had no numbers, and its commands were not chained."""
    from libs.common.log import migrate as migrating
    from libs.verify.postgres import PostgresEvidence
    from libs.verify.verify import verify

    admin = await asyncpg.connect(postgres.dsn())
    await admin.execute("create database asv_before")
    await admin.close()
    dsn = postgres.dsn("asv_before", "asv_service")
    whole = migrating.read_files()
    monkeypatch.setattr(migrating, "read_files", lambda: [file for file in whole if file.name < "020"])
    today = Batch.call
    monkeypatch.setattr("libs.common.log.batch.FEW_MAX", 1 << 20)  # all in the form that `as_before` knows
    monkeypatch.setattr(Batch, "call", lambda batch, *said: as_before(batch, today(batch, *said)[1]))
    await migrate(postgres.dsn("asv_before"))
    log = await PostgresLog.open(dsn)
    await write(log, random.Random(1), 60)
    monkeypatch.undo()
    await migrate(postgres.dsn("asv_before"))  # under a service that runs: it writes on by the function that is there then
    await log.append(Group((asked(9, "user:ops", "after"),)))
    await log.close()
    evidence = await PostgresEvidence.open(postgres.dsn("asv_before", "asv_reader"))
    report = await verify(evidence)
    acts = [row.id async for rows in evidence.commands(0) for row in rows]
    await evidence.close()
    assert report.faults == []
    assert (report.batches > 3, acts[-1], len(acts) > 20) == (True, "a-9", True)
