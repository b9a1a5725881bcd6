"""The file systems this machine has mounted."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import msgspec

from services.node.host.identity import ROOT
from services.node.host.text import read


class Mount(msgspec.Struct, frozen=True):
    """read_only: as it was mounted, or as the file system became after errors. part: the folder of the file system that is
    seen at `at`; options: of the file system."""

    at: str
    kind: str
    source: str
    read_only: bool
    device: str
    part: str = "/"
    options: tuple[str, ...] = ()


def parse_mounts(text: str) -> tuple[Mount, ...]:
    """From /proc/PID/mountinfo, in its order (a later mount hides an earlier one at the same place)."""
    return tuple(_mount(line) for line in text.splitlines() if " - " in line)


def _mount(line: str) -> Mount:
    left, _, right = line.partition(" - ")
    _, _, device, part, at, options, *_ = left.split()
    kind, source, super_options = (*right.split(), "", "")[:3]
    read_only = "ro" in options.split(",") or "ro" in super_options.split(",")
    return Mount(_plain(at), kind, _plain(source), read_only, device, _plain(part), tuple(super_options.split(",")))


def _plain(field: str) -> str:
    """Blanks and the like are written as \\040 there."""
    return (
        field.encode().decode("unicode_escape").encode("latin-1").decode(errors="replace") if "\\" in field else field
    )


def mounts(root: Path = ROOT) -> tuple[Mount, ...]:
    return parse_mounts(read(root / "proc/self/mountinfo"))


def mount_of(path: PurePosixPath, among: tuple[Mount, ...]) -> Mount | None:
    """The file system that an absolute path without links lies in; None where no mount is known."""
    for parent in (path, *path.parents):
        for mount in reversed(among):
            if mount.at == str(parent):
                return mount
    return None
