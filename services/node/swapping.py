"""The swap that this node's agent makes for its VMs, where the operator wants it (ASV_SWAP): made at start, adopted by the next
agent of the same boot, taken away when it is wanted no more or the node leaves."""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path

import msgspec

from libs.memory import swap as sizes
from libs.memory.areas import sized
from libs.memory.promise import taken_mib
from libs.memory.swap import Size
from proto.ladder import MemoryPolicy
from services.node.host.swap_host import RealHost, SwapHost
from services.node.host.swap_maker import CannotMake, Made, active, make, unmake

log = logging.getLogger(__name__)

FILE = "swap.json"
_decode = msgspec.json.Decoder(Made).decode


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """kind: `zram`, `disk` (encrypted), `auto` (zram, or else disk); "": none. swap_mib 0: as follows from memory_mib, the node's.
    where: the folder for a swap file, or a partition."""

    kind: str
    memory_mib: int
    where: Path
    swap_mib: int = 0


class Swapping:
    """state: the node's own folder. Blocking; call it before anything is served."""

    def __init__(self, state: Path, boot_id: str, host: SwapHost | None = None) -> None:
        self._file = state / FILE
        self._boot_id = boot_id
        self._host = host or RealHost()
        self._name = f"asv-swap-{hashlib.sha256(str(state.resolve()).encode()).hexdigest()[:8]}"

    def prepare(self, wish: Wish) -> list[str]:
        """See to it that there is what is wished for. A sentence for each thing that could not be done; all goes on without it."""
        kinds = ("zram", "disk") if wish.kind == "auto" else (wish.kind,)
        made = self._kept()
        if made is not None:
            if made.kind in kinds and made.boot_id == self._boot_id and active(self._host, made):
                return []
            if left := self._undo(made):
                return [f"swap (the former is not taken away: {left})"]
        if not wish.kind:
            return []
        said = []
        for kind in kinds:
            try:
                size = _size(wish, kind)
                done = make(self._host, kind, size, self._boot_id, self._name, wish.where, self._save)
            except CannotMake as error:
                said.append(str(error))
                if made := self._kept():
                    self._undo(made)
                continue
            log.info("swap for VMs: %s of %s MiB", done.device, done.size.swap_mib)
            return []
        return [f"swap for VMs ({'; '.join(said)}): best-effort VMs are not swapped out here"]

    def leave(self) -> str:
        """Take it away. What could not be, in a sentence; "": nothing is left."""
        made = self._kept()
        return "" if made is None else self._undo(made)

    def _undo(self, made: Made) -> str:
        left = unmake(self._host, made, self._boot_id)
        if not left:
            self._file.unlink(missing_ok=True)
        return left

    def _kept(self) -> Made | None:
        try:
            return _decode(self._file.read_bytes())
        except FileNotFoundError:
            return None
        except msgspec.MsgspecError as error:
            raise ValueError(f"{self._file} is damaged ({error}): look for its swap by hand, then remove it") from error

    def _save(self, made: Made) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        beside = self._file.with_suffix(".new")
        with beside.open("wb") as file:
            file.write(msgspec.json.encode(made))
            file.flush()
            os.fsync(file.fileno())
        beside.replace(self._file)


def own_device(state: Path) -> str:
    """What this node's agent made; "": nothing."""
    try:
        return _decode((state / FILE).read_bytes()).device
    except (OSError, msgspec.MsgspecError):
        return ""


def _size(wish: Wish, kind: str) -> Size:
    """Raises CannotMake where it is not worth a device."""
    capacity_mib = max(0, wish.memory_mib - taken_mib(sized(wish.memory_mib)))
    wanted = wish.swap_mib or sizes.wanted_mib(capacity_mib, MemoryPolicy())
    size = sizes.zram(wish.memory_mib, wanted) if kind == "zram" else sizes.disk(wanted)
    if size.swap_mib < sizes.SWAP_MIB_MIN:
        raise CannotMake(f"{kind}: {size.swap_mib} MiB are too little, {sizes.SWAP_MIB_MIN} are the least: set ASV_SWAP_MIB")
    return size
