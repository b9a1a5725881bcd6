"""`make setup`: from a bare machine to a tree that can run, test and check itself. Standard library only, Python >= 3.8.

Steps, each skipped when it is done already: uv (in .uv/), a Python >= 3.12, the locked packages (in .venv/), QEMU, the tiny
guest image. Ends with a non-zero exit code and one sentence when something is missing that only a person can bring.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Iterator, Sequence  # noqa: UP035  (collections.abc's take no brackets in Python 3.8)

ROOT = Path(__file__).resolve().parent.parent
UV_HOME, VENV, LOCK = ROOT / ".uv", ROOT / ".venv", ROOT / "requirements.lock"
STAMP = VENV / ".asv-stamp"
TINY = ROOT / ".cache" / "tiny"
OLDEST, NEWEST = (3, 12), (3, 14)
"""Pythons for which the locked packages have wheels."""
QEMU_PACKAGES = ("qemu-system-x86", "qemu-utils", "ovmf")
OVMF = Path("/usr/share/OVMF/OVMF_CODE_4M.fd")
IPMI_PACKAGES = ("ipmitool", "openipmi")
"""The first asks fence devices by IPMI, the second is a BMC for its tests."""
WAIT_S_MAX = 1800


class Missing(Exception):
    """Something that only a person can bring; the text says what to do."""


def say(text: str) -> None:
    print("setup: " + text, flush=True)


@contextlib.contextmanager
def step(text: str) -> Iterator[None]:
    """Says what begins, and how long it took."""
    say(text + " ...")
    began = time.monotonic()
    yield
    say(f"{text}: done in {time.monotonic() - began:.1f} s")


def run(argv: Sequence[str], env: dict[str, str] | None = None) -> None:
    """Runs a command in the checkout, its output shown. Raises Missing with its name and exit code."""
    try:
        code = subprocess.run(
            list(argv), cwd=str(ROOT), env=env, stdin=subprocess.DEVNULL, timeout=WAIT_S_MAX, check=False
        ).returncode
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Missing(f"{argv[0]} could not be run: {error}") from error
    if code != 0:
        raise Missing(f"`{' '.join(argv[:4])}` failed with exit code {code}; its own words are above")


def output(argv: Sequence[str]) -> str:
    """What a command prints; an empty text when it fails."""
    try:
        done = subprocess.run(list(argv), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode(errors="replace") if done.returncode == 0 else ""


def uv_environment() -> dict[str, str]:
    """uv reads no pip configuration, so the machine's is handed on to it, where uv has no setting of its own."""
    pip = {}
    for line in output([sys.executable, "-m", "pip", "config", "list"]).splitlines():
        key, _, value = line.partition("=")
        pip[key.split(".", 1)[-1]] = " ".join(value.strip().strip("'\"").replace("\\n", " ").split())
    named = {
        "index-url": "UV_DEFAULT_INDEX",
        "extra-index-url": "UV_INDEX",
        "find-links": "UV_FIND_LINKS",
        "trusted-host": "UV_INSECURE_HOST",
        "cert": "SSL_CERT_FILE",
    }
    env = dict(os.environ)
    env.pop("VIRTUAL_ENV", None)
    for key, name in named.items():
        if pip.get(key):
            env.setdefault(name, pip[key].replace(" ", ",") if key == "find-links" else pip[key])
    env.setdefault("UV_INDEX_STRATEGY", "unsafe-best-match")  # as pip does; what is installed is pinned by digest
    env.setdefault("UV_HTTP_TIMEOUT", "180")
    return env


def uv() -> str:
    """uv from the package index, in an environment of its own."""
    binary = UV_HOME / "bin" / "uv"
    if output([str(binary), "--version"]):
        return str(binary)
    with step("uv, from the package index"):
        shutil.rmtree(str(UV_HOME), ignore_errors=True)
        if output([sys.executable, "-c", "import ensurepip, venv; print(1)"]):
            run([sys.executable, "-m", "venv", str(UV_HOME)])
            run([str(UV_HOME / "bin" / "python"), "-m", "pip", "install", "-q", "uv"])
        elif output([sys.executable, "-m", "pip", "--version"]):  # Debian without python3-venv
            run([sys.executable, "-m", "pip", "install", "-q", "--prefix", str(UV_HOME), "--ignore-installed", "uv"])
            if not binary.exists():  # Debian's pip puts a prefix's files below local/
                (UV_HOME / "bin").mkdir(exist_ok=True)
                (UV_HOME / "bin" / "uv").symlink_to(UV_HOME / "local" / "bin" / "uv")
        elif shutil.which("uv"):
            return str(shutil.which("uv"))
        else:
            raise Missing(f"{sys.executable} has neither venv nor pip: install python3-venv, then run make setup again")
    return str(binary)


def version_of(python: str) -> tuple[tuple[int, int, int], str]:
    """Version and true path of an interpreter; (0, 0, 0) when it does not run (a pyenv shim may be for none)."""
    code = "import sys, os; print(*sys.version_info[:3], os.path.realpath(sys._base_executable))"
    match = re.match(r"(\d+) (\d+) (\d+) (.+)", output([python, "-I", "-c", code]))
    if match is None:
        return (0, 0, 0), ""
    major, minor, micro = (int(part) for part in match.groups()[:3])
    return (major, minor, micro), match.group(4)


def find_python() -> str | None:
    """The newest fitting Python on PATH, else among pyenv's versions (whose shims hide all but the selected ones)."""
    wanted = [f"python3.{minor}" for minor in range(NEWEST[1], OLDEST[1] - 1, -1)]
    seen = [path for path in map(shutil.which, [*wanted, "python3", "python"]) if path] + [sys.executable]
    versions = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    for folder in [versions, Path("/opt/python"), Path("/usr/local/bin").parent]:
        seen += [str(p) for name in wanted for p in [*folder.glob("*/bin/" + name), *folder.glob("bin/" + name)]]
    found = [version_of(path) for path in dict.fromkeys(seen)]
    fitting = [(version, path) for version, path in found if OLDEST <= version[:2] <= NEWEST]
    return max(fitting)[1] if fitting else None


def digest() -> str:
    """What the packages depend on: the lock, and the place (scripts in .venv/bin name it)."""
    return hashlib.sha256(LOCK.read_bytes() + str(ROOT).encode()).hexdigest()


def packages() -> None:
    """.venv with exactly what requirements.lock names. A half-made one has no stamp and is made anew."""
    python = VENV / "bin" / "python"
    stamp = STAMP.read_text().split("\n") if STAMP.exists() else [""]
    if stamp[0] == digest() and os.access(str(python), os.X_OK):
        return
    tool, env = uv(), uv_environment()
    if not (stamp[0] and output([str(python), "-c", "print(1)"])) or stamp[1:2] != [str(ROOT)]:
        found = find_python()
        if found is None:
            say(f"no Python 3.{OLDEST[1]} to 3.{NEWEST[1]} on PATH or among pyenv's: uv fetches one")
        with step(f"a Python environment in .venv ({found or 'fetched'})"):
            run([tool, "venv", "-q", "--clear", "-p", found or "3.13", str(VENV)], env)
    STAMP.unlink() if STAMP.exists() else None
    with step("the locked packages"):
        # Compiled now, so that the first start of a cluster has not to do it.
        run([tool, "pip", "sync", "--require-hashes", "--compile-bytecode", "-p", str(python), str(LOCK)], env)
    run([str(python), "-m", "compileall", "-q", "libs", "proto", "services"])
    STAMP.write_text(digest() + "\n" + str(ROOT) + "\n")


def qemu() -> None:
    """QEMU, its image tool and UEFI firmware, by apt when missing and allowed. Firmware may be missing: nodes say so."""
    there = bool(shutil.which("qemu-system-x86_64") and shutil.which("qemu-img"))
    may = os.geteuid() == 0 and shutil.which("apt-get") is not None
    if there and (OVMF.exists() or not may):
        return
    wish = "QEMU is missing: install qemu-system-x86 and qemu-utils (or your system's packages of qemu-system-x86_64 "
    wish += "and qemu-img), then run make again"
    if not may:
        raise Missing(wish)
    env = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
    try:
        with step("QEMU, by apt"):
            run(["apt-get", "update", "-q"], env)
            run(["apt-get", "install", "-y", "-q", "--no-install-recommends", *QEMU_PACKAGES], env)
    except Missing as error:
        if not there:
            raise
        say(f"no UEFI firmware, so VMs start by BIOS only: {error}")
    if not (shutil.which("qemu-system-x86_64") and shutil.which("qemu-img")):
        raise Missing(wish)


def ipmi() -> None:
    """By apt when missing and allowed; all else goes on without."""
    if (shutil.which("ipmitool") and shutil.which("ipmi_sim")) or os.geteuid() != 0 or not shutil.which("apt-get"):
        return
    try:
        with step("ipmitool and a BMC to test it with, by apt"):
            run(
                ["apt-get", "install", "-y", "-q", "--no-install-recommends", *IPMI_PACKAGES],
                dict(os.environ, DEBIAN_FRONTEND="noninteractive"),
            )
    except Missing as error:
        say(f"fence devices of kind ipmi cannot be asked here: {error}")


def tiny_image() -> None:
    """The built-in guest image; its builder returns at once when it is there."""
    run([str(VENV / "bin" / "python"), "-m", "infra.guest.build", str(TINY)])


def refresh_lock() -> None:
    """`make lock`: resolves pyproject.toml anew. No index address gets into the file."""
    args = ["pip", "compile", "-q", "--universal", "--python-version", "3.12", "--generate-hashes", "--no-annotate"]
    args += ["--no-emit-index-url", "--no-emit-find-links", "--no-header", "--group", "dev", "--upgrade"]
    with step("requirements.lock"):
        run([uv(), *args, "pyproject.toml", "-o", str(LOCK)], uv_environment())


def main(args: list[str]) -> int:
    if args not in ([], ["--lock"]):
        say("takes no argument but --lock")
        return 2
    folder = ROOT / ".cache"
    folder.mkdir(exist_ok=True)
    with (folder / "setup.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two set-ups of one tree wait for each other
        try:
            if args == ["--lock"]:
                refresh_lock()
                return 0
            packages()
            qemu()
            ipmi()
            tiny_image()
        except Missing as error:
            say(f"stopped: {error}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
