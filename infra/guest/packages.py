"""Packages of the machine's own archive, unpacked into private folders: nothing is installed, no root needed.

The package lists of the machine are used where they serve; where they are missing or out of date, lists of our own are
fetched beside them (`apt-get update` into a private folder, from the machine's sources).

    GuestError    its text says what is missing and what would help
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

APT_S_MAX = 600
"""seconds; a slow mirror may take minutes for a kernel"""
UNPACK_S_MAX = 300
"""seconds, for one package"""
ROUNDS_MAX = 12
"""the longest chain of dependencies that is followed"""


class GuestError(Exception):
    """The guest could not be built."""


@dataclass(frozen=True, slots=True)
class Package:
    """One version of a package in the archive. size: bytes; depends: the first alternative of each dependency."""

    name: str
    version: str
    sha256: str
    size: int
    depends: tuple[str, ...]


def say(line: str) -> None:
    print(f"tiny: {line}", file=sys.stderr, flush=True)


class Archive:
    """apt with a state of its own in `home`."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._private_lists = False
        for part in ("lists/partial", "apt/archives/partial", "debs"):
            (home / part).mkdir(parents=True, exist_ok=True)
        if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
            raise GuestError("the tiny guest is made of Debian packages: apt-get and dpkg-deb are needed and not here")

    def _run(self, *argv: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        # container images switch apt's own cache off, and then every question reads all lists again
        options = [
            f"Dir::Cache={self._home / 'apt'}",
            "Dir::Cache::pkgcache=packages",
            "Dir::Cache::srcpkgcache=sources",
        ]
        if os.geteuid() == 0:
            # files of ours need not be readable for apt's own user
            options.append("APT::Sandbox::User=root")
        if self._private_lists:
            options.append(f"Dir::State::Lists={self._home / 'lists'}")
        program, *rest = argv
        line = [program, *(f"-o{option}" for option in options), *rest]
        try:
            return subprocess.run(
                line, cwd=cwd, env={**os.environ, "LC_ALL": "C"}, text=True, errors="replace",
                capture_output=True, timeout=APT_S_MAX, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            sentence = f"`{' '.join(argv)}` did not end within {APT_S_MAX} s: is the package mirror reachable?"
            raise GuestError(sentence) from None

    def refresh(self) -> bool:
        """Fetch package lists of our own. False when they were fetched before."""
        if self._private_lists:
            return False
        self._private_lists = True
        say("fetching package lists (apt-get update, into a private folder)")
        done = self._run("apt-get", "update")
        if done.returncode != 0:
            raise GuestError(f"package lists cannot be fetched: {_complaint(done.stderr)}; is the network there?")
        return True

    def resolve(self, roots: Iterable[str], follow: Callable[[str], bool]) -> dict[str, Package]:
        """The roots and, step by step, each dependency whose name `follow` accepts. Names that the archive does not
        know are left out."""
        found: dict[str, Package] = {}
        asked: set[str] = set()
        names = set(roots)
        for _ in range(ROUNDS_MAX):
            if not names:
                return found
            asked |= names
            fresh = self._show(sorted(names))
            found |= fresh
            names = {d for p in fresh.values() for d in p.depends if follow(d)} - asked
        raise GuestError(f"dependencies of {', '.join(sorted(roots))} are more than {ROUNDS_MAX} steps deep")

    def _show(self, names: list[str]) -> dict[str, Package]:
        done = self._run("apt-cache", "show", "--no-all-versions", *names)
        packages = (_package(paragraph) for paragraph in done.stdout.split("\n\n") if paragraph.strip())
        return {p.name: p for p in packages}

    def fetch(self, packages: Iterable[Package]) -> list[Path]:
        """The packages' files, downloaded unless they are there already; each digest is checked."""
        return [self._fetch(p) for p in sorted(packages, key=lambda p: p.name)]

    def _fetch(self, package: Package) -> Path:
        target = self._home / "debs" / f"{package.name}-{package.sha256[:16]}.deb"
        if target.exists() and _sha256(target) == package.sha256:
            return target
        say(f"downloading {package.name} {package.version} ({package.size / 2**20:.1f} MiB)")
        aside = self._home / "debs" / f"{package.name}.{os.getpid()}"
        aside.mkdir(exist_ok=True)
        try:
            done = self._run("apt-get", "download", "-q", f"{package.name}={package.version}", cwd=aside)
            files = list(aside.glob("*.deb"))
            if done.returncode != 0 or len(files) != 1:
                raise GuestError(f"{package.name} {package.version} cannot be downloaded: {_complaint(done.stderr)}")
            if _sha256(files[0]) != package.sha256:
                raise GuestError(f"{package.name} {package.version} does not have the digest of the package list")
            files[0].replace(target)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        return target


def unpack(files: Iterable[Path], into: Path) -> None:
    """Unpack packages over each other into the folder `into`. Scripts of theirs are not run."""
    for file in files:
        words = ["dpkg-deb", "-x", str(file), str(into)]
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=UNPACK_S_MAX)
        if done.returncode != 0:
            raise GuestError(f"{file.name} cannot be unpacked: {_complaint(done.stderr)}")


def _package(paragraph: str) -> Package:
    fields = dict(re.findall(r"^([A-Za-z0-9-]+): (.*)$", paragraph, re.MULTILINE))
    wishes = ", ".join(fields[f] for f in ("Pre-Depends", "Depends") if f in fields)
    depends = tuple(re.split(r"[ |:(]", wish.strip(), maxsplit=1)[0] for wish in wishes.split(",") if wish.strip())
    return Package(fields["Package"], fields["Version"], fields.get("SHA256", ""), int(fields.get("Size", 0)), depends)


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _complaint(stderr: str) -> str:
    lines = stderr.splitlines() or ["no reason was given"]
    errors = [line.removeprefix("E:").strip() for line in lines if line.startswith("E:")]
    return (errors or lines)[0]
