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

RULE, CHANGED = "node=choice.candidates[0].node", "node=choice.candidates[-1].node"
FILE = Path("services/compute/starting.py")


@pytest.fixture
async def log(postgres: Postgres, database: str) -> AsyncIterator[str]:
    """The reader's DSN of a log with a failover in it."""
    writer = await PostgresLog.open(postgres.dsn(database, "asv_service"))
    await copy(failover(), writer)
    await writer.close()
    yield postgres.dsn(database, "asv_reader")


async def spoiled(postgres: Postgres, database: str, statement: str) -> None:
    connection = await asyncpg.connect(postgres.dsn(database))
    await connection.execute(statement)
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
    """The code that is here, and four revisions of it: the third takes the worst node. Their ids."""
    for room in ("libs", "proto", "services"):
        shutil.copytree(ROOT / room, folder / room, ignore=shutil.ignore_patterns("__pycache__"))
    environ = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}

    def git(*words: str) -> str:
        command = ["git", "-c", "user.name=ada", "-c", "user.email=ada@example.org", *words]
        return subprocess.run(command, cwd=folder, env=environ, check=True, capture_output=True, text=True).stdout.strip()

    def commit(file: Path, text: str, title: str) -> str:
        (folder / file).write_text(text)
        git("add", "-A")
        git("commit", "-q", "-m", title)
        return git("rev-parse", "HEAD")

    git("init", "-q")
    code = (folder / FILE).read_text()
    assert RULE in code
    return [
        commit(Path("NOTES"), "as it is", "as it is"),
        commit(Path("NOTES"), "more", "a note"),
        commit(FILE, code.replace(RULE, CHANGED), "the worst node will do"),
        commit(Path("NOTES"), "more and more", "another note"),
    ]


async def test_the_revision_that_decides_otherwise_is_found_with_asvctl(
    log: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    ctl = here(monkeypatch, capfd, tmp_path, "", "")
    commits = repository(tmp_path)
    words = ("replay", "--bisect", "--service", "compute", "--log", log, "--repository", str(tmp_path), "--good", commits[0])
    said = await asyncio.to_thread(ctl, *words, "--json")
    assert said.code == 1, said.err
    assert json.loads(said.out)["first"] == commits[2]
    left = subprocess.run(["git", "worktree", "list"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert left.count("\n") == 1, "the checkouts are gone"
    wrong = await asyncio.to_thread(ctl, *words, "--bad", commits[1])
    assert wrong.code == 2 and "was to be one that decides otherwise" in wrong.err

    changed = subprocess.run(
        [sys.executable, "-m", "services.host.replay", "--log", log, "--service", "compute"], cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert changed.returncode == 1 and "events[0].node:" in changed.stdout and "command start_vm" in changed.stdout


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
