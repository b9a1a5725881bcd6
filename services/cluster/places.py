"""As whom the engines run, and where their files may lie so that this user reaches them.

As root the engines run as `postgres` where that user exists, else as `nobody` (PostgreSQL refuses root). That user may be unable
to enter the home or the checkout. Nothing above our own folders is ever changed; then the engines' folders and copies of their
binaries lie in a private place outside, named after the home, which destroy removes.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pwd
import shutil
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SOCKET_PATH_BYTES_MAX = 107
"""sun_path of Linux, without its closing zero byte."""

_OUTSIDE = (Path("/var/lib"), Path("/var/tmp"), Path("/tmp"))  # noqa: S108  (checked for a stranger's folder below)


class NoPlace(Exception):
    """No user or no folder for the engines; the text says what would be right."""


@dataclass(frozen=True, slots=True)
class ServerUser:
    """An unprivileged user to run engines as."""

    name: str
    uid: int
    gid: int

    def popen(self) -> dict[str, Any]:
        """Keyword arguments for Popen. Nothing of our own groups stays with the child."""
        return {"user": self.uid, "group": self.gid, "extra_groups": []}


def server_user() -> ServerUser | None:
    """Whom to become: None when we are not root, for then we stay who we are."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            found = pwd.getpwnam(name)
            return ServerUser(name, found.pw_uid, found.pw_gid)
    raise NoPlace("PostgreSQL does not run as root, and there is neither a user `postgres` nor `nobody` to run it as")


def reaches(user: ServerUser | None, path: Path) -> bool:
    """Whether the user can enter a folder, or run a file (which then must be executable)."""
    if user is None:
        return os.access(path, os.X_OK)
    try:
        asked = subprocess.run(["/usr/bin/test", "-x", str(path)], cwd="/", check=False, **user.popen())
    except OSError:
        return False
    return asked.returncode == 0


def outside(home: Path, short: bool = False) -> Path:
    """A private place for this home beyond it, made on first use, always at the same path. short: for sockets."""
    name = "asv-" + hashlib.sha256(os.fsencode(home.resolve())).hexdigest()[:10]
    user = server_user()
    for parent in _OUTSIDE[2:] if short else _OUTSIDE:
        if not (os.access(parent, os.W_OK | os.X_OK) and reaches(user, parent)):
            continue
        place = parent / name
        with contextlib.suppress(FileExistsError):
            place.mkdir(mode=0o700)
            place.chmod(0o711 if user else 0o700)  # whatever the umask is; the folders in it are private
        found = place.lstat()
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o022:
            return place
    raise NoPlace(f"no private folder for the engines could be made in any of {', '.join(map(str, _OUTSIDE))}")


def owned(folder: Path, user: ServerUser | None) -> Path:
    """Makes a folder that belongs to the engines' user alone (0700)."""
    folder.mkdir(mode=0o700, exist_ok=True)
    if user is not None:
        os.chown(folder, user.uid, user.gid)
    return folder


def engine_folder(home: Path, name: str, user: ServerUser | None) -> Path:
    """Where an engine's files lie: in the home where its user can enter that, else outside. The parent exists."""
    return (home if reaches(user, home) else outside(home)) / name


def socket_folder(home: Path, wanted: Path, name: str) -> Path:
    """`wanted`, unless the path of a socket `name` in it would be too long for the kernel."""
    if len(os.fsencode(wanted / name)) <= SOCKET_PATH_BYTES_MAX:
        return wanted
    return outside(home, short=True) / wanted.parent.name


def copied(sources: dict[str, Path], name: str, home: Path, user: ServerUser | None) -> Path:
    """A copy that the user reaches, in a folder `name` (which holds the version), made once. sources: where in that folder
    each file or folder goes, as libraries are found relative to the binary."""
    parent = engine_folder(home, "bin", user)
    place = parent / name
    if place.exists():
        return place
    parent.mkdir(mode=0o755, exist_ok=True)
    parent.chmod(0o755)
    half = parent / f".{name}.half"
    shutil.rmtree(half, ignore_errors=True)
    half.mkdir(mode=0o755)
    half.chmod(0o755)
    for target, source in sources.items():
        if source.is_dir():
            shutil.copytree(source, half / target, symlinks=True)
        else:
            shutil.copy2(source, half / target)
    half.rename(place)
    return place
