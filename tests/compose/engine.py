"""A docker engine to test on: the one that answers, else one of our own, started by hand and ended by its pid.

    with Engine.found_or_started() as engine:
        engine.docker("compose", "version")

Ours needs root and Debian packages; its data (images, build cache) stays in the cache folder between runs, its sockets and
pid file lie in a temporary folder. Compose and buildx come from a newer Debian where this machine has none.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from tests.compose import debian
from tests.compose.debian import NoArchive
from tests.servers import dies_with_parent

START_S_MAX = 60.0
STOP_S_MAX = 30.0
COMMAND_S_MAX = 1800.0
BUILD_CACHE_MAX = "3GB"
ENGINE_PACKAGES = ("docker.io", "iptables", "mmdebstrap")
PLUGIN_SUITE = "trixie"
PLUGIN_PACKAGES = ("docker-compose", "docker-buildx")
PLUGIN_FOLDER = Path("usr/libexec/docker/cli-plugins")


class NoEngine(Exception):
    """No engine answers and none can be started here; the text says why."""


class DockerFailed(Exception):
    """A docker command failed; the text ends with its own words."""


def cache() -> Path:
    """Where engine data and downloads stay between runs: $ASV_CACHE, else ~/.cache/asv."""
    chosen = os.environ.get("ASV_CACHE")
    folder = (Path(chosen) if chosen else Path.home() / ".cache" / "asv").absolute() / "compose"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@dataclass
class Engine:
    """host: for DOCKER_HOST. ours: whether this process started it."""

    host: str
    config: Path | None = None
    ours: bool = False
    folder: Path | None = None
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    lock: IO[str] | None = field(default=None, repr=False)

    @classmethod
    def found_or_started(cls) -> Engine:
        """Raises NoEngine; NoArchive where an engine is there, but compose is not and cannot be fetched."""
        host = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
        engine = cls(host)
        if shutil.which("docker") is None or not engine.answers():
            engine = cls._started()
        try:
            engine.config = None if engine.knows_compose() else _plugins(cache() / "plugins")
        except BaseException:
            engine.stop()
            raise
        return engine

    @classmethod
    def _started(cls) -> Engine:
        if os.geteuid() != 0:
            raise NoEngine("no docker engine answers, and only root can start one")
        if shutil.which("dockerd") is None or shutil.which("mmdebstrap") is None:
            try:
                debian.install(ENGINE_PACKAGES)
            except NoArchive as error:
                raise NoEngine(f"no docker engine answers, and it cannot be installed: {error}") from error
        folder = Path(tempfile.mkdtemp(prefix="asv-docker-", dir="/tmp"))  # short: a socket's path ends at 107 bytes
        engine = cls(f"unix://{folder}/docker.sock", ours=True, folder=folder, lock=_locked(cache() / "engine.lock"))
        argv = ["dockerd", "--data-root", str(cache() / "engine"), "--exec-root", str(folder / "exec"), "-H", engine.host,
                "-p", str(folder / "docker.pid")]  # fmt: skip
        with (folder / "log").open("wb") as log:
            engine.process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                preexec_fn=dies_with_parent(signal.SIGTERM),  # noqa: PLW1509  one system call, no lock
            )  # fmt: skip
        end = time.monotonic() + START_S_MAX
        while not engine.answers():
            if engine.process.poll() is not None or time.monotonic() > end:
                words = (folder / "log").read_text(errors="replace")[-1500:]
                engine.stop()
                raise NoEngine(f"dockerd does not run on this machine: {words}")
            time.sleep(0.1)
        return engine

    @property
    def environment(self) -> dict[str, str]:
        chosen = {"DOCKER_HOST": self.host, "DOCKER_BUILDKIT": "1"}
        return os.environ | chosen | ({"DOCKER_CONFIG": str(self.config)} if self.config else {})

    def answers(self) -> bool:
        return self._asks("version", "--format", "{{.Server.Version}}")

    def knows_compose(self) -> bool:
        return self._asks("compose", "version") and self._asks("buildx", "version")

    def _asks(self, *words: str) -> bool:
        try:
            done = subprocess.run(
                ["docker", *words], env=self.environment, capture_output=True, check=False, timeout=30,
                stdin=subprocess.DEVNULL,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired):
            return False
        return done.returncode == 0

    def docker(self, *words: str, cwd: Path | None = None, shown: bool = False) -> str:
        """`docker WORDS`; its output, which is shown as it comes where asked. Raises DockerFailed."""
        done = subprocess.run(
            ["docker", *words], cwd=cwd, env=self.environment, text=True, errors="replace", stdin=subprocess.DEVNULL,
            stdout=sys.stderr if shown else subprocess.PIPE, stderr=None if shown else subprocess.STDOUT,
            timeout=COMMAND_S_MAX, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise DockerFailed(f"`docker {' '.join(words[:6])}` failed: {(done.stdout or 'see above')[-4000:]}")
        return done.stdout or ""

    def tidy(self) -> None:
        """In an engine of our own: what earlier builds left is removed, past a bound."""
        if self.ours:
            self.docker("image", "prune", "-f")
            self.docker("builder", "prune", "-f", "--keep-storage", BUILD_CACHE_MAX)

    def stop(self) -> None:
        """Ends the engine if it is ours, with all it runs. Its data stays."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_S_MAX)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(STOP_S_MAX)
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
        if self.lock is not None:
            self.lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()


def _locked(path: Path) -> IO[str]:
    """Two engines on one data folder would spoil it: a second run waits for the first."""
    file = path.open("w")
    fcntl.flock(file, fcntl.LOCK_EX)
    return file


def _plugins(folder: Path) -> Path:
    """A docker configuration folder with compose and buildx in it. Raises NoArchive."""
    made = debian.unpacked(PLUGIN_SUITE, PLUGIN_PACKAGES, folder)
    (folder / "config").mkdir(exist_ok=True)
    link = folder / "config" / "cli-plugins"
    if not link.exists():
        link.symlink_to(made / PLUGIN_FOLDER)
    return folder / "config"
