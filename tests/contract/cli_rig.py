"""asvctl as its users run it: in this process, in a pipe, on a terminal; against a server that speaks docs/api.md."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import select
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from services.cli.main import run
from tests.contract.canned_gateway import Canned

ROOT = Path(__file__).parents[2]
ANSWER_S_MAX = 20.0


class Said(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


type Ctl = Callable[..., Said]


def here(patch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], home: Path, api: str, token: str) -> Ctl:
    """asvctl in this process, with nothing else of ours in its environment. home: where no cluster is."""
    for name in [n for n in os.environ if n.startswith("ASV_")]:
        patch.delenv(name)
    for name, value in (("ASV_HOME", str(home)), ("ASV_API", api), ("ASV_TOKEN", token)):
        patch.setenv(name, value)

    def call(*words: str) -> Said:
        capfd.readouterr()
        code = run(words)
        sys.stdout.flush()
        return Said(code, *capfd.readouterr())

    return call


def beside(ctl: Ctl) -> Callable[..., Awaitable[Said]]:
    """The same in a thread: the server that it asks is on this event loop."""
    return lambda *words: asyncio.to_thread(ctl, *words)


def environ(gateway: Canned, **more: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("ASV_")}
    return kept | {"ASV_API": gateway.api, "ASV_TOKEN": "admin", "PYTHONPATH": str(ROOT)} | more


def asvctl(gateway: Canned, *words: str, **more: Any) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "services.cli", *words]
    return subprocess.run(
        command, env=environ(gateway), cwd="/", capture_output=True, timeout=ANSWER_S_MAX, check=False, **more
    )


def on_terminal(gateway: Canned, *words: str, keys: Callable[[int], None] | None = None) -> tuple[int, bytes]:
    """(exit code, what the terminal showed) of asvctl on a terminal of its own."""
    master, slave = pty.openpty()
    running = subprocess.Popen(
        [sys.executable, "-m", "services.cli", *words],
        env=environ(gateway, TERM="xterm"),
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    os.close(slave)
    try:
        if keys is not None:
            keys(master)
        shown = b""
        while piece := read(master):
            shown += piece
        return running.wait(ANSWER_S_MAX), shown
    finally:
        running.kill()
        running.wait()
        os.close(master)


def read(fd: int) -> bytes:
    """What a terminal shows next; b'' once nobody holds its other side."""
    if not select.select([fd], [], [], ANSWER_S_MAX)[0]:
        return b""
    try:
        return os.read(fd, 4096)
    except OSError:
        return b""


def until(fd: int, text: bytes) -> bytes:
    shown = b""
    while text not in shown:
        piece = read(fd)
        assert piece, f"{text!r} never came; shown so far: {shown!r}"
        shown += piece
    return shown
