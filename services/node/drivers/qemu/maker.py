"""Makes the disks of VMs by qemu-img, formats always stated. Blocking; call from a thread."""

from __future__ import annotations

import subprocess
from pathlib import Path

from proto.machine import DiskFormat
from services.node.drivers import CannotStart

MAKE_S_MAX = 60.0


class DiskMaker:
    """A file appears whole or not at all: it is made beside its place and moved there."""

    def overlay(self, file: Path, base: Path, base_format: DiskFormat, format: DiskFormat, size_mib: int) -> None:
        """A qcow2 overlay on the image, or for a raw disk a copy of it, grown to size_mib. Raises CannotStart."""
        draft = file.with_suffix(file.suffix + ".draft")
        if format is DiskFormat.QCOW2:
            words = [
                "create",
                "-q",
                "-f",
                "qcow2",
                "-b",
                str(base),
                "-F",
                base_format.value,
                str(draft),
                f"{size_mib}M",
            ]
            self._make(file, draft, [words])
        else:
            copy = ["convert", "-q", "-f", base_format.value, "-O", "raw", str(base), str(draft)]
            self._make(file, draft, [copy, ["resize", "-q", "-f", "raw", str(draft), f"{size_mib}M"]])

    def blank(self, file: Path, format: DiskFormat, size_mib: int) -> None:
        """Raises CannotStart."""
        draft = file.with_suffix(file.suffix + ".draft")
        self._make(file, draft, [["create", "-q", "-f", format.value, str(draft), f"{size_mib}M"]])

    def _make(self, file: Path, draft: Path, calls: list[list[str]]) -> None:
        try:
            for words in calls:
                done = subprocess.run(["qemu-img", *words], capture_output=True, timeout=MAKE_S_MAX, check=False)
                if done.returncode != 0:
                    said = done.stderr.decode("utf-8", "replace").strip()[:1000]
                    raise CannotStart(f"disk {file.name} could not be made: {said}")
            draft.rename(file)
        except subprocess.TimeoutExpired:
            raise CannotStart(f"disk {file.name} could not be made within {MAKE_S_MAX} s") from None
        finally:
            draft.unlink(missing_ok=True)


class NoGroups:
    """A host where no control group can be made: VMs run without."""

    def join(self, vm: str, pid: int) -> str:
        return ""

    def remove(self, handle: str) -> None:
        return None
