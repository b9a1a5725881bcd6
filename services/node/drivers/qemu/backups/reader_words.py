"""What is asked of a file reader, and what its answers mean (infra/guest/reader/init). Pure."""

from __future__ import annotations

import re
import stat

from proto.backup_files import FileEntry, FileKind
from services.node.drivers.backup_files import NotRead, What
from services.node.drivers.file_names import shown

VOLUMES = "lvm"
"""what stands for the disk in the name of a logical volume"""
_PART = re.compile(r"([a-z0-9-]{1,16}) (\S{1,32}) ([A-Za-z0-9+_.-]{1,128}) ([0-9]{1,18}) (\S{1,64}) (\S{1,64})")
_STAT = re.compile(rb"([0-9a-f]{1,8}) ([0-9]{1,18}) (-?[0-9]{1,18}) ([0-9]{1,10}) ([0-9]{1,10}) /")
_WHAT = re.compile(rb"([0-9a-f]{1,8}) ([0-9]{1,18})\n")
ENTRIES_MAX = 5000
"""as NAMES_MAX of the reader"""
KINDS = {stat.S_IFREG: FileKind.FILE, stat.S_IFDIR: FileKind.FOLDER, stat.S_IFLNK: FileKind.LINK}


class Part(FileEntry):
    """block: as the reader calls it."""

    block: str = ""


def path_words(block: str, names: tuple[bytes, ...]) -> str:
    """Each byte of a name as an octal escape, so that it is one word whatever it is."""
    return " ".join((block, *("".join(f"\\0{byte:03o}" for byte in name) for name in names)))


def parts(answer: bytes, disks: dict[str, str]) -> tuple[Part, ...]:
    """By name. disks: by the serial numbers of those that were given to it, their names."""
    found = []
    for text in answer.decode(errors="replace").splitlines():
        if (seen := _PART.fullmatch(text)) is None or seen[2] not in disks | {VOLUMES: VOLUMES}:
            continue
        disk = disks.get(seen[2], VOLUMES)
        name = f"{disk}:{seen[3]}" if seen[3] != "0" else disk
        type, label = (shown(word.encode()) if word != "-" else "" for word in (seen[5], seen[6]))
        found.append(
            Part(name=name, kind=FileKind.PART, bytes=int(seen[4]), type=type, label=label, block=seen[1])
        )
    return tuple(sorted(found, key=lambda one: (one.name.partition(":")[0], len(one.name), one.name)))


def entries(answer: bytes) -> tuple[FileEntry, ...]:
    """Names first, then of each what it is. A name may hold anything, also what looks like another's line: so each line is held
    against its name. Raises NotRead."""
    head, end, stats = answer.partition(b"\0\0")
    if not end:
        head, stats = b"", answer.removeprefix(b"\0")
    paths = head.split(b"\0") if head else []
    if len(paths) > ENTRIES_MAX:
        raise NotRead(f"it holds {len(paths)} names; at most {ENTRIES_MAX} are listed")
    found, at = [], 0
    for path in paths:
        name = path.rpartition(b"/")[2]
        seen = _STAT.match(stats, at)
        if seen is None or not stats.startswith(path[1:] + b"\n", seen.end()):
            found.append(FileEntry(name=shown(name), kind=FileKind.OTHER))  # damaged: it has a name and nothing else
            continue
        at = seen.end() + len(path)
        found.append(_entry(name, seen))
    return tuple(sorted(found, key=lambda one: one.name))


def _entry(name: bytes, seen: re.Match[bytes]) -> FileEntry:
    mode = int(seen[1], 16)
    kind = KINDS.get(stat.S_IFMT(mode), FileKind.OTHER)
    return FileEntry(
        name=shown(name), kind=kind, bytes=int(seen[2]) if kind is FileKind.FILE else 0, mode=stat.S_IMODE(mode),
        uid=int(seen[4]), gid=int(seen[5]), modified_s=int(seen[3]),
    )  # fmt: skip


def what(answer: bytes) -> What:
    """Raises NotRead for what is neither a file nor a folder."""
    if (seen := _WHAT.fullmatch(answer)) is None:
        raise NotRead("it cannot be said what it is: the file system may be damaged")
    kind = KINDS.get(stat.S_IFMT(int(seen[1], 16)), FileKind.OTHER)
    if kind not in (FileKind.FILE, FileKind.FOLDER):
        raise NotRead("it is neither a file nor a folder: take the folder that it is in")
    return What(kind, int(seen[2]) if kind is FileKind.FILE else 0)
