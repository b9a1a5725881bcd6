"""`asvctl what-if` over a database: a process of its own that reads by the role that may not write, and what it says where there is
nothing to be read."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from libs.common.log import Group, NewEvent, Unit
from libs.common.log.postgres import PostgresLog
from libs.world.play import started
from libs.world.story import Story
from services.cli.failure import UNREACHABLE, USAGE
from services.cli.main import run
from tests.servers import Postgres


class Writing:
    """Its clock is that of the world whose events are written."""

    def __init__(self) -> None:
        self.at_us = 0

    def __call__(self) -> int:
        return self.at_us


@pytest.fixture
async def dsn(postgres: Postgres, database: str) -> str:
    """Of the reader, of a database that holds what a world has written."""
    clock = Writing()
    log = await PostgresLog.open(postgres.dsn(database, "asv_service"), clock_us=clock)
    world = started(Story(seed=1, vms=5))
    for r in world.log.read_all_now(0, 10**6):
        clock.at_us = r.at_us
        await log.append(Group((Unit(r.stream, r.version - 1, (NewEvent(r.type, r.v, r.data, r.meta),), None),)))
    await log.close()
    return postgres.dsn(database, "asv_reader")


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No cluster of this machine."""
    monkeypatch.setenv("ASV_HOME", str(tmp_path_factory.mktemp("nowhere")))
    monkeypatch.delenv("ASV_LOG", raising=False)
    yield


def test_it_answers_from_a_database(dsn: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["what-if", "--kill", "node/n2", "--compare", "", "--tries", "1", "--log", dsn]
    assert run([*words, "--json"]) == 0
    killed, nothing = json.loads(capsys.readouterr().out)
    assert {start["vm"] for start in killed["starts"]} == {"vm-0", "vm-4"} and killed["fault"] == ""
    assert nothing["starts"] == [] and nothing["variant"] == ""
    assert run(["what-if", "--kill", "node/n9", "--log", dsn]) == USAGE
    assert "there is no node n9 by then: there are n1, n2, n3" in capsys.readouterr().err


def test_where_there_is_no_log(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["what-if", "--kill", "node/n2"]) == UNREACHABLE
    assert "no log is known here" in capsys.readouterr().err
    assert run(["what-if", "--kill", "node/n2", "--log", "somewhere"]) == UNREACHABLE
    assert "`somewhere` is no log" in capsys.readouterr().err
    assert run(["what-if", "--log", "somewhere"]) == USAGE
    assert "nothing is to be done: write --kill" in capsys.readouterr().err
