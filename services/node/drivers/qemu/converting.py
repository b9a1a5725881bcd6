"""A disk of another hypervisor, or one out of an appliance, becomes a qcow2 of ours. Blocking.

Our own reading comes first (foreign.py), then qemu-img's, as exactly that format; what it writes is bounded by what came in.
"""

from __future__ import annotations

import os
from pathlib import Path

from proto.images import ImageFormat, Suggestion
from services.node.drivers import BadImage
from services.node.drivers.qemu import appliance, foreign, qcow2
from services.node.drivers.qemu.qemu_img import QemuImg

GROWTH_MAX = 64
"""A disk may be so many times the file that it came in. Compressed images are a tenth to a half of what is in them; a thousand
times is possible, and is nobody's disk."""
GROWTH_FREE_BYTES = 64 << 20
WORDS = {ImageFormat.VHD: "vpc"}
"""qemu-img's, where they differ"""


def convert(came: Path, format: ImageFormat, wanted: str, target: Path, tool: QemuImg) -> Suggestion | None:
    """A qcow2 at `target` of the disk in `came`; what its appliance suggests. Raises BadImage."""
    suggests = None
    if format is ImageFormat.OVA:
        inside = came.with_name("inside")
        with came.open("rb") as tar:
            disk, suggests = appliance.take(tar.fileno(), wanted, inside)
        came.unlink()
        came, format = inside, disk.format
    elif wanted:
        raise BadImage(f"the disk {wanted!r} is asked for, and a file of the format {format} holds one only")
    if format is ImageFormat.QCOW2:
        _check_qcow2(came, tool)
    else:
        _check_foreign(came, format, tool)
    bytes_max = max(GROWTH_FREE_BYTES, GROWTH_MAX * came.stat().st_size)
    tool.take_in(came, WORDS.get(format, format), target, bytes_max)
    target.chmod(0o644)
    return suggests


def _check_qcow2(came: Path, tool: QemuImg) -> None:
    with came.open("rb") as file:
        qcow2.check(os.pread(file.fileno(), qcow2.HEADER_BYTES, 0), came.stat().st_size)
    tool.check(came, ImageFormat.QCOW2)


def _check_foreign(came: Path, format: ImageFormat, tool: QemuImg) -> None:
    with came.open("rb") as file:
        foreign.check(format, lambda at, size: os.pread(file.fileno(), size, at), came.stat().st_size)
    word = WORDS.get(format, format)
    facts = tool.info(came, word)
    if facts.format != word or facts.backing_filename or facts.encrypted:
        raise BadImage(f"the image is not what its header says; {foreign.ALONE}")
    qcow2.check_size(facts.virtual_size)
    tool.check(came, word)
