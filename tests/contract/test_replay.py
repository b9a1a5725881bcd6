"""`asvctl replay` on a real database's log: the same, a changed policy, bad words and bad logs; the revision that changed it."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import pty
import shutil
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import asyncpg
import pytest

from libs.common.log.postgres import PostgresLog
from services.host.replay.app import main
from tests.contract import cli_rig
from tests.contract.cli_rig import ANSWER_S_MAX, ROOT, Said, here, read, until
from tests.past_rig import copy, failover
from tests.servers import Postgres

START, POLICY = Path("services/host/replay/__main__.py"), Path("services/compute/policy.py")
LEDGER = Path("services/memory/capacity.py")
SPREAD = 'SPREAD = Weights(name="spread-3", room=1.0, numa=0.25'
HARMLESS = 'SPREAD = Weights(name="spread-3", room=1.0, numa=0.3'
FULLEST = 'SPREAD = Weights(name="spread-4", room=-1.0, numa=0.3'


@pytest.fixture
async def log(postgres: Postgres, database: str) -> AsyncIterator[str]:
    yield await filled(postgres, database)


async def filled(postgres: Postgres, database: str) -> str:
    """The reader's DSN of a log with a failover in it."""
    writer = await PostgresLog.open(postgres.dsn(database, "asv_service"))
    await copy(failover(), writer)
    await writer.close()
    return postgres.dsn(database, "asv_reader")


async def spoiled(postgres: Postgres, database: str, statement: str, *values: object) -> None:
    connection = await asyncpg.connect(postgres.dsn(database))
    await connection.execute(statement, *values)
    await connection.close()


@pytest.fixture
def replayed(capfd: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """In this process."""

    def call(*words: str) -> Said:
        capfd.readouterr()
        code = main(words)
        return Said(code, *capfd.readouterr())

    return call


async def test_what_was_recorded_is_decided_again(log: str, replayed: Callable[..., Said]) -> None:
    said = await asyncio.to_thread(replayed, "--log", log, "--service", "compute")
    assert (said.code, said.err) == (0, "")
    assert "no difference: today's code decides what was recorded" in said.out and "not decided" not in said.out
    head = failover().head_now().position
    said = await asyncio.to_thread(replayed, "--log", log, "--service", "ha", "--json", "--to", str(head))
    assert said.code == 0 and said.json["difference"] is None
    assert said.json["counts"]["decided"] >= 10 and said.json["counts"]["unasked"] == 0
    parts = await asyncio.to_thread(replayed, "--log", log, "--service", "ha", "--json", "--to", str(head), "--parts", "2")
    assert parts.code == 0 and parts.json == said.json
    beyond = await asyncio.to_thread(replayed, "--log", log, "--service", "ha", "--to", str(head + 1))
    assert (beyond.code, beyond.out) == (2, "") and f"whose last event is {head}" in beyond.err


async def test_logs_that_cannot_be_replayed_say_what_is_wrong(
    log: str, postgres: Postgres, database: str, replayed: Callable[..., Said]
) -> None:
    away = await asyncio.to_thread(replayed, "--log", "nowhere.txt", "--service", "ha")
    assert away.code == 4 and "is no log" in away.err
    await spoiled(postgres, database, "update asv.events set type = 'vm_teleported' where type = 'vm_started'")
    future = await asyncio.to_thread(replayed, "--log", log, "--service", "compute")
    assert future.code == 6 and "`vm_teleported`, which this release does not know; a release of aSV is needed" in future.err
    others = await asyncio.to_thread(replayed, "--log", log, "--service", "memory")
    assert others.code == 0, "it is none of memory's own: memory skips it"
    await spoiled(postgres, database, "delete from asv.events where position = 20")
    gap = await asyncio.to_thread(replayed, "--log", log, "--service", "memory")
    assert gap.code == 6 and "the log has" in gap.err


async def test_the_event_at_which_a_condition_broke(log: str, replayed: Callable[..., Said]) -> None:
    stopped = next(e for e in failover().read_all_now(0, 10**6) if e.type == "vm_stopped")
    words = ("--log", log, "--bisect", "--condition", f"{stopped.stream}.state.kind == 'Running'")
    said = await asyncio.to_thread(replayed, *words, "--json")
    assert said.code == 1 and said.json["broke"]["position"] == stopped.position
    assert said.json["broke"]["before"][stopped.stream]["type"] == "Running"
    started = next(e for e in failover().read_all_now(0, 10**6) if e.type == "vm_started" and e.stream == stopped.stream)
    some = ("--monotonic", "--from", str(started.position + 1), "--to", str(stopped.position))
    quick = await asyncio.to_thread(replayed, *words, *some)
    assert quick.code == 1 and f"broke at event {stopped.position}" in quick.out and "vm_stopped" in quick.out
    never = await asyncio.to_thread(replayed, "--log", log, "--bisect", "--condition", f"{stopped.stream}.version >= 0")
    assert never.code == 0 and "did not break" in never.out
    bad = await asyncio.to_thread(replayed, "--log", log, "--bisect", "--condition", "size > 3")
    assert bad.code == 2 and "no word here" in bad.err


def repository(folder: Path) -> list[str]:
    """The code that is here, and revisions more: the second does not start, the third has the fullest node come first, and the last
    folds ledgers wrongly. Their ids."""
    for room in ("libs", "proto", "services"):
        shutil.copytree(ROOT / room, folder / room, ignore=shutil.ignore_patterns("__pycache__"))
    environ = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
    start = (folder / START).read_text()

    def git(*words: str) -> str:
        command = ["git", "-c", "user.name=ada", "-c", "user.email=ada@example.org", *words]
        return subprocess.run(command, cwd=folder, env=environ, check=True, capture_output=True, text=True).stdout.strip()

    def commit(title: str, old: str = "", new: str = "", starts: bool = True, file: Path = POLICY) -> str:
        code = (folder / file).read_text()
        assert old in code
        (folder / file).write_text(code.replace(old, new) if old else code)
        (folder / START).write_text(f"# {title}\n{start if starts else 'raise ImportError'}\n")
        git("add", "-A")
        git("commit", "-q", "-m", title)
        return git("rev-parse", "HEAD")

    git("init", "-q")
    return [
        commit("As it is"),
        commit("Cells weigh a little more", SPREAD, HARMLESS),
        commit("Half a change", starts=False),
        commit("The fullest node comes first", HARMLESS, FULLEST),
        commit("A note"),
        commit("Ledgers are in debt", "capacity_mib=event.capacity_mib", "capacity_mib=-event.capacity_mib", file=LEDGER),
    ]


async def test_the_revision_by_which_a_condition_breaks_is_found(
    log: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    ctl = here(monkeypatch, capfd, tmp_path, "", "")
    commits = repository(tmp_path)
    condition = ("--condition", "not (ledger-n1.state.capacity_mib < 0)")
    words = ("replay", "--bisect", *condition, "--log", log, "--repository", str(tmp_path), "--good", commits[3])
    said = await asyncio.to_thread(ctl, *words)
    assert said.code == 1, said.err
    ledger = [event for event in failover().read_all_now(0, 10**6) if event.stream == "ledger-n1"]
    first = next(event for event in ledger if event.type == "capacity_set")
    title, where = said.out.splitlines()
    assert title.startswith("the first that breaks the condition: ") and title.endswith("Ledgers are in debt")
    assert where == f"  first at event {first.position}, capacity_set on ledger-n1"


async def test_a_changed_policy_is_found_by_its_first_other_decision_and_by_its_revision(
    log: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    ctl = here(monkeypatch, capfd, tmp_path, "", "")
    commits = repository(tmp_path)
    words = ("replay", "--bisect", "--service", "compute", "--log", log, "--repository", str(tmp_path), "--good", commits[0])
    said = await asyncio.to_thread(ctl, *words, "--json")
    assert said.code == 1, said.err
    assert (said.json["first"], said.json["unsure"]) == (commits[3], [commits[2]])
    assert said.json["difference"]["command"]["type"] == "start_vm"
    left = subprocess.run(["git", "worktree", "list"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert left.count("\n") == 1, "the checkouts are gone"
    plain = await asyncio.to_thread(ctl, *words, "--bad", commits[3])
    assert plain.code == 1 and plain.out.startswith("the first that decides otherwise: ") and "The fullest node" in plain.out
    assert "events[0].placement.policy: \"spread-3\" -> \"spread-4\"" in plain.out
    assert f"or this one, which cannot say: {commits[2][:7]} Half a change" in plain.out
    for one, said_of_it in ((commits[1], "decides what was recorded"), (commits[2], "cannot say")):
        wrong = await asyncio.to_thread(ctl, *words, "--bad", one)
        assert wrong.code == 2 and f"was to be one that decides otherwise, and {said_of_it}" in wrong.err

    changed = subprocess.run(
        [sys.executable, "-m", "services.host.replay", "--log", log, "--service", "compute", "--json"], cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert changed.returncode == 1, changed.stderr
    found = json.loads(changed.stdout)["difference"]
    sides = {field["path"]: (field["recorded"], field["produced"]) for field in found["fields"]}
    assert found["command"]["type"] == "start_vm" and found["before"]["type"] == "Stopped"
    assert found["recorded"][0]["type"] == found["produced"][0]["type"] == "vm_start_requested"
    assert sides["events[0].placement.policy"] == ("spread-3", "spread-4")
    recorded = found["command"]["body"]["choice"]["candidates"]
    fullest = min(recorded, key=lambda one: (one["score"], one["node"]))
    assert sides["events[0].node"] == (recorded[0]["node"], fullest["node"])
    starts = [event for event in failover().read_all_now(0, 10**6) if event.type == "vm_start_requested"]
    assert starts[0].position < found["position"] <= starts[1].position, "of the first all nodes are as full"


def on_terminal(*words: str, keys: Callable[[int], None]) -> tuple[int, bytes]:
    """(exit code, what was shown behind the last key) of asvctl on a terminal of 120 by 36."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 36, 120, 0, 0))
    kept = {k: v for k, v in os.environ.items() if not k.startswith("ASV_")}
    running = subprocess.Popen(
        [sys.executable, "-m", "services.cli", *words], env=kept | {"TERM": "xterm-256color", "PYTHONPATH": str(ROOT)},
        stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
    )  # fmt: skip
    os.close(slave)
    try:
        keys(master)
        shown = b""
        while piece := read(master):
            shown += piece
        return running.wait(ANSWER_S_MAX), shown
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)
        running.wait()
        os.close(master)


async def test_a_failover_is_walked_on_a_terminal_and_a_decision_entered(log: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli_rig, "ANSWER_S_MAX", 100.0)  # all services are imported before anything is shown
    lost = next(event for event in failover().read_all_now(0, 10**6) if event.type == "node_lost")

    def keys(terminal: int) -> None:
        until(terminal, b"event 1")
        os.write(terminal, b"b")
        until(terminal, b"type vm_started |")
        os.write(terminal, b"type node_lost\r")
        until(terminal, b"1 breakpoints")
        os.write(terminal, b"r")
        until(terminal, f"event {lost.position}".encode())
        os.write(terminal, b"x")
        until(terminal, b"(Pdb) ")
        os.write(terminal, b"p type($command).__name__, type($state).__name__\n")
        until(terminal, b"DeclareLost")
        os.write(terminal, b"continue\n")
        until(terminal, b"decided: NodeLost")
        os.write(terminal, b"q")

    code, _ = await asyncio.to_thread(on_terminal, "replay", "--step", "--log", log, keys=keys)
    assert code == 0


async def test_stepping_needs_a_terminal(log: str, replayed: Callable[..., Said]) -> None:
    said = await asyncio.to_thread(replayed, "--log", log, "--step")
    assert said.code == 2 and "--step needs a terminal" in said.err
