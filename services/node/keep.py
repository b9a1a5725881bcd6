"""What the agent keeps on disk: per VM the newest order seen. One small file each, replaced atomically, fsynced."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from services.node.model import Kept

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Kept).decode


class Keep:
    """Raises OSError when the folder cannot be written: the agent then does nothing, and is repeated to."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def load(self) -> list[Kept]:
        """Sorted by VM. A half-written temporary file is ignored; a damaged record raises msgspec.DecodeError: it must not be
        taken for «never seen»."""
        return [_decode(path.read_bytes()) for path in sorted(self._folder.glob("*.json"))]

    def store(self, kept: Kept) -> None:
        path = self._folder / f"{kept.vm}.json"
        beside = path.with_suffix(".tmp")
        with beside.open("wb") as file:
            file.write(_encode(kept))
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
