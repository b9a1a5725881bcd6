"""asvctl in pipes and on terminals: raw bytes, escapes, consoles, completion, and what a start of it costs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.contract.canned_gateway import Canned
from tests.contract.cli_rig import ANSWER_S_MAX, ROOT, Ctl, asvctl, environ, on_terminal, until


def test_exec_passes_arguments_output_and_exit_code(ctl: Ctl, gateway: Canned) -> None:
    gateway.exec = {"exit_code": 7, "stdout": b"out\n", "stderr": b"err\n", "truncated": True}
    said = ctl("vm", "exec", "web-1", "--timeout", "1m", "--", "ls", "-l", "--json", "--")
    assert (said.code, said.out) == (7, "out\n")
    assert said.err == "err\nasvctl: the output was cut at 1 MiB\n"
    assert gateway.posted[0][3] == {"argv": ["ls", "-l", "--json", "--"], "timeout_s": 60}


def test_exec_into_a_pipe_is_raw_and_input_goes_along(gateway: Canned) -> None:
    raw = bytes(range(256)) + b"\x1b[2J"
    gateway.exec["stdout"] = raw
    done = asvctl(gateway, "vm", "exec", "-i", "web-1", "--", "cat", input=b"\x00some input")
    assert (done.returncode, done.stdout, done.stderr) == (0, raw, b"")
    assert gateway.posted[0][3]["input_b64"] == "AHNvbWUgaW5wdXQ="


def test_exec_on_a_terminal_is_stripped(gateway: Canned) -> None:
    gateway.exec["stdout"] = b"a\x1b[2Jb\x1b]0;title\x07c\n"
    code, shown = on_terminal(gateway, "vm", "exec", "web-1", "--", "x")
    assert (code, shown) == (0, b"abc\r\n")


def test_a_table_on_a_terminal_is_coloured_by_us_alone(gateway: Canned) -> None:
    code, shown = on_terminal(gateway, "vm", "ls")
    assert code == 0
    assert b"web-1" in shown
    assert b"\x1b]0;title" not in shown
    assert b"\x1b[31measant" not in shown


def test_a_reader_that_goes_away_is_no_fault(gateway: Canned) -> None:
    gateway.vms = {f"vm-{i}": gateway.vms["web-1"] | {"name": f"vm-{i}"} for i in range(3000)}
    reader, writer = os.pipe()
    command = [sys.executable, "-m", "services.cli", "vm", "ls"]
    with subprocess.Popen(command, env=environ(gateway), stdout=writer, stderr=subprocess.PIPE) as running:
        os.close(writer)
        assert os.read(reader, 10)
        os.close(reader)
        assert running.stderr is not None
        assert running.stderr.read() == b"", "neither a traceback nor a complaint"
        assert running.wait(ANSWER_S_MAX) == 1


@pytest.fixture
def consoles(gateway: Canned) -> Iterator[list[str]]:
    """The canned gateway's API is now a websocket server: its console echoes in upper case; `bye` ends it. The list holds
    the paths that were asked for; a VM `gone` is closed as unknown."""
    import threading

    from websockets.sync.server import ServerConnection, serve

    asked: list[str] = []

    def console(socket: ServerConnection) -> None:
        assert socket.request is not None
        asked.append(socket.request.path)
        if "gone" in socket.request.path:
            socket.close(4004, "there is no vm `gone`")
            return
        assert socket.request.headers["Authorization"] == "Bearer admin"
        socket.send(b"login: ")
        for keys in socket:
            assert isinstance(keys, bytes)
            socket.send(keys.upper())
            if keys == b"bye\n":
                return

    with serve(console, "127.0.0.1", 0) as server:
        gateway.api = f"http://127.0.0.1:{server.socket.getsockname()[1]}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield asked
        server.shutdown()
        thread.join()


def test_the_console_is_raw_until_ctrl_bracket(gateway: Canned, consoles: list[str]) -> None:
    def keys(terminal: int) -> None:
        until(terminal, b"login: ")
        os.write(terminal, b"root\x03")
        until(terminal, b"ROOT\x03")
        os.write(terminal, b"x\x1d")

    code, _ = on_terminal(gateway, "vm", "console", "web-1", keys=keys)
    assert code == 0
    assert consoles == ["/v1/vms/web-1/console"]


def test_the_console_in_a_pipe_goes_on_until_its_own_end(gateway: Canned, consoles: list[str]) -> None:
    done = asvctl(gateway, "vm", "console", "web-1", input=b"bye\n")
    assert (done.returncode, done.stdout) == (0, b"login: BYE\n")
    assert len(consoles) == 1


def test_a_console_that_is_refused_says_why(gateway: Canned, consoles: list[str]) -> None:
    done = asvctl(gateway, "vm", "console", "gone", input=b"")
    assert done.returncode == 3, done
    assert b"there is no vm `gone`" in done.stderr
    assert consoles


def test_help_and_completion_know_every_command(gateway: Canned) -> None:
    done = asvctl(gateway, "--help")
    for word in (b"vm", b"node", b"image", b"task", b"token", b"cluster", b"lab", b"events", b"schema", b"Exit codes"):
        assert word in done.stdout
    asked = environ(gateway, _ASVCTL_COMPLETE="complete_bash", COMP_WORDS="asvctl vm sh", COMP_CWORD="2")
    command = [sys.executable, "-c", "from services.cli.main import main; main()"]
    done = subprocess.run(command, env=asked, cwd=ROOT, capture_output=True, timeout=ANSWER_S_MAX, check=False)
    assert done.stdout.split() == [b"show"]
    asked |= {"COMP_WORDS": "asvctl vm show we", "COMP_CWORD": "3"}
    done = subprocess.run(command, env=asked, cwd=ROOT, capture_output=True, timeout=ANSWER_S_MAX, check=False)
    assert done.stdout.split() == [b"web-1"]


def test_a_list_loads_nothing_heavy(gateway: Canned) -> None:
    """People wait for every import; these cost more than all the rest together."""
    code = "import sys; from services.cli.main import run; run(['vm', 'ls']); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environ(gateway),
        cwd=ROOT,
        capture_output=True,
        timeout=ANSWER_S_MAX,
        check=True,
    )
    loaded = set(done.stderr.decode().split())
    assert b"web-1" in done.stdout
    assert "http.client" in loaded
    heavy = {
        "httpx",
        "pydantic",
        "rich",
        "rich.table",
        "msgspec",
        "websockets",
        "asyncio",
        "services.cli.console",
        "proto",
    }
    assert not loaded & heavy
