"""cluster.json: what an embedded cluster must remember between its processes. Written by the supervisor, read by anyone."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from services.cluster.processes import Mark


class ChildRecord(msgspec.Struct, kw_only=True):
    """One process as the supervisor sees it. state: starting, ready, waiting (for its next start), stopped, off, frozen, cut."""

    state: str = "stopped"
    mark: Mark | None = None
    restarts: int = 0
    sentence: str = ""


class Record(msgspec.Struct, kw_only=True, omit_defaults=True):
    """ports: by process name, kept over restarts; log: where the log is read, by the role that cannot write it.
    log_owner: the same for who may archive it; archive: the folder that archives are written to.
    memory_mib: what each node may use of this host, 0: its share;
    outside: folders beyond the home, removed by destroy.
    apart: each node's processes live in its network namespace. state: stopped, starting, healthy, stopping."""

    ports: dict[str, int] = {}
    outside: list[str] = []
    state: str = "stopped"
    separate: bool = False
    apart: bool = False
    driver: str = ""
    log: str = ""
    log_owner: str = ""
    archive: str = ""
    memory_mib: int = 0
    supervisor: Mark | None = None
    children: dict[str, ChildRecord] = {}
    watchdogs: dict[str, ChildRecord] = {}
    """by node; not among the children, as they outlive the supervisor"""


def load(path: Path) -> Record:
    """The record; an empty one where there is none. Raises ValueError where it cannot be read as one."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Record)
    except FileNotFoundError:
        return Record()
    except msgspec.MsgspecError as error:
        raise ValueError(f"{path} is damaged ({error}); `make destroy` removes this cluster") from error


def save(path: Path, record: Record) -> None:
    """Atomic: a reader sees the old or the new one."""
    beside = path.with_suffix(".new")
    with beside.open("wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(record), indent=1))
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
