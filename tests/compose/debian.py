"""Debian packages without installing them: the machine's own archive, another suite, folders of our own."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

APT_S_MAX = 600
SOURCES = Path("/etc/apt")


class NoArchive(Exception):
    """The machine has no Debian archive among its sources, or it cannot be reached; the text says which."""


def source(suite: str) -> str:
    """A one-line source of that suite's main part, from wherever this machine gets its own packages. Raises NoArchive."""
    for path in [SOURCES / "sources.list", *sorted((SOURCES / "sources.list.d").glob("*"))]:
        text = path.read_text() if path.is_file() else ""
        for line in re.findall(r"^deb\s.*$", text, re.MULTILINE):
            found = re.match(r"deb\s+(\[[^]]*\]\s+)?(\S+/debian/?)\s", line)
            if found:
                return f"deb {found.group(1) or ''}{found.group(2)} {suite} main"
        for paragraph in text.split("\n\n"):
            fields = dict(re.findall(r"^([A-Za-z-]+): *(.+)$", paragraph, re.MULTILINE))
            uri = fields.get("URIs", "").split(" ")[0]
            if uri.rstrip("/").endswith("/debian"):
                key = fields.get("Signed-By", "")
                return f"deb {f'[signed-by={key}] ' if key.startswith('/') else ''}{uri} {suite} main"
    raise NoArchive(f"no Debian archive among the sources in {SOURCES}: {suite} packages cannot be had")


def unpacked(suite: str, names: tuple[str, ...], folder: Path) -> Path:
    """The named packages of a suite, unpacked over each other in `folder`/root; downloaded once. Raises NoArchive."""
    root = folder / "root"
    if root.exists():
        return root
    for part in ("lists/partial", "cache/archives/partial", "debs"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    listed = folder / "sources.list"
    listed.write_text(source(suite) + "\n")
    options = {
        "Dir::Etc::sourcelist": listed,
        "Dir::Etc::sourceparts": "/nonexistent",
        "Dir::State::Lists": folder / "lists",
        "Dir::Cache": folder / "cache",
        "APT::Sandbox::User": "root",  # folders of ours need not be open to apt's own user
    }
    flags = [f"-o{key}={value}" for key, value in options.items()]
    _run(["apt-get", *flags, "update", "-q"], folder)
    _run(["apt-get", *flags, "download", "-q", *names], folder / "debs")
    draft = folder / "root.draft"
    for deb in sorted((folder / "debs").glob("*.deb")):
        _run(["dpkg-deb", "-x", str(deb), str(draft)], folder)
    draft.rename(root)
    return root


def install(names: tuple[str, ...]) -> None:
    """Into the machine itself. Raises NoArchive."""
    _run(["apt-get", "update", "-q"], Path("/"))
    _run(["apt-get", "install", "-y", "-q", "--no-install-recommends", *names], Path("/"))


def _run(argv: list[str], cwd: Path) -> None:
    env = os.environ | {"LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(
            argv, cwd=cwd, env=env, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
            timeout=APT_S_MAX,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoArchive(f"{argv[0]} could not be run: {error}") from error
    if done.returncode != 0:
        raise NoArchive(f"`{' '.join([argv[0], *argv[-3:]])}` failed: {done.stderr.strip()[-1000:]}")
