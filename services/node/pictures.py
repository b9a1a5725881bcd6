"""Pictures of guests' screens, kept beside a verdict that may follow: by VM the last few, by the digest of their bytes. What they
show may be secret: no other user can read the folder."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

KEPT_MAX = 4
"""of one VM"""
VMS_MAX = 200
"""the pictures of more are forgotten, those that were taken last stay"""
_DIGEST = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


class Pictures:
    """Raises OSError where the folder cannot be written."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def keep(self, vm: str, png: bytes) -> str:
        """Its digest."""
        digest = hashlib.sha256(png).hexdigest()
        folder = self._folder / vm
        folder.mkdir(exist_ok=True, mode=0o700)
        path = folder / f"{digest}.png"
        if path.exists():
            os.utime(path)
            return digest
        draft = path.with_suffix(".draft")
        draft.write_bytes(png)
        draft.replace(path)
        for old in _newest_first(folder, "*.png")[KEPT_MAX:]:
            old.unlink(missing_ok=True)
        for old in _newest_first(self._folder, "*")[VMS_MAX:]:
            self.forget(old.name)
        return digest

    def get(self, vm: str, digest: str) -> bytes | None:
        """None: it is not there (any more)."""
        if not _DIGEST.fullmatch(digest) or not _NAME.fullmatch(vm):
            return None
        try:
            return (self._folder / vm / f"{digest}.png").read_bytes()
        except OSError:
            return None

    def forget(self, vm: str) -> None:
        for path in (self._folder / vm).glob("*"):
            path.unlink(missing_ok=True)
        (self._folder / vm).rmdir()


def _newest_first(folder: Path, pattern: str) -> list[Path]:
    found = [(path.stat().st_mtime_ns, path) for path in folder.glob(pattern)]
    return [path for _, path in sorted(found, reverse=True)]
