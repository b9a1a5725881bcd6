"""`asvctl what-if` over a database: a process of its own that reads by the role that may not write, and what it says where there is
nothing to be read."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest

from libs.common.log import Group, NewEvent, Unit
from libs.common.log.postgres import PostgresLog
from libs.past.where import open_past
from libs.world.befall import befall
from libs.world.play import started
from libs.world.story import Step, Story
from services.cli.failure import UNREACHABLE, USAGE
from services.cli.main import run
from services.ha.grantor import TICK_US
from tests.servers import Postgres


class Writing:
    """Its clock is that of the world whose events are written."""

    def __init__(self) -> None:
        self.at_us = 0

    def __call__(self) -> int:
        return self.at_us


@dataclass(frozen=True, slots=True)
class Recorded:
    """dsn: of the reader. position: of the moment that is asked about; when_us: n2 lost its power, after it; head: of all."""

    dsn: str
    position: int
    when_us: int
    head: int


@pytest.fixture
async def recorded(postgres: Postgres, database: str) -> Recorded:
    """A database that holds what a world has written, in which a node was lost in the end."""
    clock = Writing()
    log = await PostgresLog.open(postgres.dsn(database, "asv_service"), clock_us=clock)
    world = started(Story(seed=1, vms=5))
    world.grantor_us = TICK_US
    world.run(4.3)
    position, when_us = world.log.head_now().position, world.net.now_us
    befall(world, Step(do="power", who="n2"))
    world.run(20)
    events = world.log.read_all_now(0, 10**6)
    for r in events:
        clock.at_us = r.at_us
        await log.append(Group((Unit(r.stream, r.version - 1, (NewEvent(r.type, r.v, r.data, r.meta),), None),)))
    await log.close()
    return Recorded(postgres.dsn(database, "asv_reader"), position, when_us, len(events))


def clock_of(at_us: int) -> str:
    return datetime.fromtimestamp(at_us / 1e6, UTC).isoformat()


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No cluster of this machine."""
    monkeypatch.setenv("ASV_HOME", str(tmp_path_factory.mktemp("nowhere")))
    monkeypatch.delenv("ASV_LOG", raising=False)
    yield


def test_it_answers_from_a_database(recorded: Recorded, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["what-if", "--kill", "node/n2", "--tries", "1", "--log", recorded.dsn, "--json", "--at"]
    assert run([*words, str(recorded.position), "--compare", ""]) == 0
    killed, nothing = json.loads(capsys.readouterr().out)
    assert {start["vm"] for start in killed["starts"]} == {"vm-0", "vm-4"} and killed["fault"] == ""
    assert nothing["starts"] == [] and nothing["variant"] == ""
    assert run(["--at", clock_of(recorded.when_us), *words[:-1]]) == 0
    assert json.loads(capsys.readouterr().out) == killed, "the time of that position is not that position"
    assert run(["what-if", "--add", "2xvm-1", "--remove-memory", "n1=1GiB", "--tries", "1", "--log", recorded.dsn]) == 0
    said = capsys.readouterr().out
    assert f"What if, from position {recorded.head} " in said and "vm-1-2  new" in said and "Simulated (one trial):" in said


def test_it_is_held_against_what_came(recorded: Recorded, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["what-if", "--kill", "node/n2", "--at", str(recorded.position), "--log", recorded.dsn]
    assert run([*words, "--lived", clock_of(recorded.when_us)]) == 0
    assert "2 of 2 VMs as foretold, 2 of them within the time that was foretold" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        ("--kill node/n9", "there is no node n9 by then: there are n1, n2, n3"),
        ("--kill node/n2", "n2 was lost by then, and is taken to have no power: ask about an earlier moment (--at)"),
        ("--kill node/n2 --at 100000", "there is no position 100000: the log has 1 to"),
        ("--kill node/n2 --at 1999-01-01", "`1999-01-01` is before the first event of the log"),
        ("--kill node/n2 --at soon", "`soon` is no moment: write now, a position, or a time"),
        ("--remove-memory n1=lots", "`n1=lots` says not what memory goes: write NODE=SIZE, as n1=64GiB"),
        ("--kill node/n2 --lived soon", "`soon` is no time: write when it happened"),
        ("--kill node/n2 --lived 2023-11-15 --compare ''", "only one of two variants was lived"),
        ("--kill node/n2 --at 84 --lived 2999-01-01", "nothing has come of it"),
        ("--kill node/n2 --at 84 --lived 1999-01-01", "it happened before the moment that is asked about"),
    ],
)
def test_what_is_no_question_of_this_log(recorded: Recorded, words: str, wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["what-if", *shlex.split(words), "--log", recorded.dsn]) == USAGE
    assert wrong in capsys.readouterr().err


async def test_nothing_is_written(recorded: Recorded, capsys: pytest.CaptureFixture[str]) -> None:
    """By a role that may not (tests/contract/test_past.py), whatever would be done."""
    words = ["--kill", "node/n1", "--add", "2xvm-1", "--remove-memory", "n3=1GiB"]
    assert run(["what-if", *words, "--tries", "1", "--log", recorded.dsn]) == 0
    assert "nothing was written to it" in capsys.readouterr().out
    past = await open_past(recorded.dsn)
    try:
        assert (await past.head()).position == recorded.head
    finally:
        await past.close()


def test_where_there_is_no_log(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["what-if", "--kill", "node/n2"]) == UNREACHABLE
    assert "no log is known here" in capsys.readouterr().err
    assert run(["what-if", "--kill", "node/n2", "--log", "somewhere"]) == UNREACHABLE
    assert "`somewhere` is no log" in capsys.readouterr().err
    assert run(["what-if", "--log", "somewhere"]) == USAGE
    assert "nothing is to be done: write --kill" in capsys.readouterr().err
