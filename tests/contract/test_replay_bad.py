"""Logs and words that cannot be replayed: what is wrong is said with where it is, and nothing is taken for a difference."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import asyncpg
import msgspec
import pytest

from libs.past.aslog import aslog, write
from libs.past.memory import MemoryPast
from libs.past.source import Decided
from libs.past.where import opened
from services.host.replay import stepper
from services.host.replay.app import main
from services.host.replay.words import Wanted
from tests.contract.cli_rig import Said
from tests.contract.test_replay import filled, spoiled
from tests.past_rig import failover
from tests.servers import Postgres

EVENTS = failover().read_all_now(0, 10**6)
START = next(event for event in EVENTS if event.type == "vm_start_requested")
LOST = next(event for event in EVENTS if event.type == "node_lost")


@pytest.fixture
async def log(postgres: Postgres, database: str) -> AsyncIterator[str]:
    yield await filled(postgres, database)


@pytest.fixture
def replayed(capfd: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    def call(*words: str) -> Said:
        capfd.readouterr()
        try:
            code = main(words)
        except SystemExit as end:
            code = int(str(end.code))
        return Said(code, *capfd.readouterr())

    return call


async def of(replayed: Callable[..., Said], log: str, *words: str) -> Said:
    return await asyncio.to_thread(replayed, "--log", log, *words)


SPOILED = [
    ("update asv.commands set payload = '\\x00' where position = $1", f"(event {START.position}) cannot be read"),
    ("update asv.commands set outcome = '\\xc1' where position = $1", "the answer to command ask-"),
    ("update asv.commands set stream = 'vm-vm-3' where position = $1", "the log is two logs in one"),
    ("update asv.events set data = '\\x80' where position = $1", f"event {START.position} (vm-vm-0, version 2)"),
    ("update asv.events set v = 99 where position = $1", "`vm_start_requested` version 99; this release reads it up to"),
    ("update asv.events set version = version + 900 where position >= $1 and stream = 'vm-vm-0'", "version 902 of vm-vm-0, and"),
    ("update asv.events set stream = 'vm-vm-2', version = 901 where position = $1", "the log has a gap, or is two logs in one"),
    ("delete from asv.events where position = $1", f"has {len(EVENTS) - 1} events where 1 to {len(EVENTS)}"),
]


@pytest.mark.parametrize(("statement", "said"), SPOILED)
async def test_what_is_wrong_with_a_log_is_said_with_its_place(
    statement: str, said: str, log: str, postgres: Postgres, database: str, replayed: Callable[..., Said]
) -> None:
    await spoiled(postgres, database, statement, START.position)
    found = await of(replayed, log, "--service", "compute")
    assert (found.code, found.out) == (6, "") and said in found.err and found.err.count("\n") == 1


async def test_a_command_that_today_s_code_does_not_know_is_named(
    log: str, postgres: Postgres, database: str, replayed: Callable[..., Said]
) -> None:
    (start,) = [one for one in await kept() if one.position == START.position]
    envelope = msgspec.msgpack.decode(start.payload)
    envelope["data"]["type"] = "teleport_vm"
    other = "update asv.commands set payload = $2 where position = $1"
    await spoiled(postgres, database, other, START.position, msgspec.msgpack.encode(envelope))
    found = await of(replayed, log, "--service", "compute")
    assert found.code == 6 and "is `teleport_vm`, which compute of this release does not know; a release of aSV" in found.err
    assert (await of(replayed, log, "--service", "ha")).code == 0, "it is no command of ha's"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--from", "9999"), "whose last event is"), (("--to", "9999"), "beyond the log"),
        (("--from", "9", "--to", "3"), "is nothing"),
        (("--from", "-4"), "from 1 on"), (("--from", "x"), "invalid int"), (("--service", "lorry"), "no service `lorry`"),
    ],
)  # fmt: skip
async def test_words_that_are_not_in_the_log(words: tuple[str, ...], said: str, log: str, replayed: Callable[..., Said]) -> None:
    found = await of(replayed, log, "--service", "compute", *words)
    assert (found.code, found.out) == (2, "") and said in found.err
    condition = ("--bisect", "--condition", "vm-vm-0.version >= 0")
    found = await of(replayed, log, *condition, *words)
    assert found.code == 2 and said in found.err


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ("vm-vm-0.state.kind ==", "the end in"), ("(vm-vm-0.version", "`)`"),
        ("vm-vm-0.state.kind = 'Running'", "is not understood"),
        ("vm-nobody.version > 1", "the log has no event of vm-nobody"), ("lorry-1.version > 1", "is no stream: they begin with"),
        ("position > 3", "is about one event"), ("__import__('os')", "no word here"),
    ],
)  # fmt: skip
async def test_conditions_that_cannot_be_meant(condition: str, said: str, log: str, replayed: Callable[..., Said]) -> None:
    found = await of(replayed, log, "--bisect", "--condition", condition)
    assert (found.code, found.out) == (2, "") and said in found.err


async def test_a_condition_that_never_held_is_told_from_one_that_held(log: str, replayed: Callable[..., Said]) -> None:
    never = await of(replayed, log, "--bisect", "--condition", "vm-vm-0.version > 5000")
    assert never.code == 0 and "it never held" in never.out
    always = await of(replayed, log, "--bisect", "--condition", "vm-vm-0.version < 5000")
    assert always.code == 0 and "did not break" in always.out and "never" not in always.out


async def test_logs_that_are_not_to_be_had(postgres: Postgres, tmp_path: Path, replayed: Callable[..., Said]) -> None:
    for log in ("nowhere.txt", str(tmp_path / "none.aslog"), postgres.dsn("nowhere"), postgres.dsn("postgres", "nobody")):
        bisect = ("--bisect", "--service", "ha", "--good", "HEAD")
        for words in (("--service", "ha"), ("--bisect", "--condition", "vm-a.version > 1"), bisect):
            found = await of(replayed, log, *words)
            assert (found.code, found.out) == (4, ""), (log, found)
            assert found.err.startswith("asvctl replay: ") and "Traceback" not in found.err


async def kept() -> list[Decided]:
    return [one async for chunk in MemoryPast(failover()).commands() for one in chunk]


async def test_a_slice_is_replayed_and_what_is_missing_within_a_stream_is_noticed(
    tmp_path: Path, replayed: Callable[..., Said]
) -> None:
    some = [event for event in EVENTS if event.stream in ("vm-vm-0", "lease-n1", "ledger-n2")]
    commands = [one for one in await kept() if one.stream in ("vm-vm-0", "lease-n1", "ledger-n2")]
    file = tmp_path / "some.aslog"
    write(file, aslog(some, commands, 1))
    for service in ("compute", "ha", "memory"):
        found = await of(replayed, str(file), "--service", service)
        assert found.code == 0 and ": 0 commands" not in found.out, found.err
    behind = await of(replayed, str(file), "--service", "ha", "--from", str(LOST.position))
    assert behind.code == 0
    walk = await stepper.load(await opened(str(file)), Wanted(log="", service=""))
    assert [step.recorded for step in walk.steps.all] == some and walk.to(LOST.position)
    assert all(walk.steps.again(step) is None for step in walk.steps.all)
    assert not walk.to(LOST.position + 1) or walk.step.recorded.stream in ("vm-vm-0", "lease-n1", "ledger-n2")
    torn = [event for event in some if event is not START]
    write(file, aslog(torn, commands, 1))
    found = await of(replayed, str(file), "--service", "compute")
    assert found.code == 6 and "comes after version 1: the log has a gap, or is two logs in one" in found.err
    file.write_bytes(file.read_bytes()[:-50])
    found = await of(replayed, str(file), "--service", "compute")
    assert found.code == 6 and "is torn or was changed" in found.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--good", "--force"), "is no revision"), (("--good", "nosuch"), "there is no revision `nosuch` in"),
        (("--good", "HEAD", "--repository", "/nowhere"), "there is no revision `HEAD` in /nowhere"),
        (("--good", "HEAD", "--from", "9999"), "beyond the log"),
    ],
)  # fmt: skip
async def test_revisions_that_there_are_not(words: tuple[str, ...], said: str, log: str, replayed: Callable[..., Said]) -> None:
    joined = [f"{name}={value}" for name, value in zip(words[::2], words[1::2], strict=True)]
    found = await of(replayed, log, "--bisect", "--service", "ha", *joined)
    assert (found.code, found.out) == (2, "") and said in found.err


async def test_nothing_is_written(log: str, postgres: Postgres, database: str, replayed: Callable[..., Said]) -> None:
    connection = await asyncpg.connect(postgres.dsn(database))
    count = "select tup_inserted + tup_updated + tup_deleted from pg_stat_database where datname = $1"
    await connection.execute("select pg_stat_force_next_flush()")
    before = await connection.fetchrow(count, database)
    for words in (("--service", "compute"), ("--bisect", "--condition", "vm-vm-0.version < 5")):
        assert (await of(replayed, log, *words)).code in (0, 1)
    await connection.execute("select pg_stat_force_next_flush()")
    after = await connection.fetchrow(count, database)
    await connection.close()
    assert before is not None and after is not None and before[0] == after[0]
