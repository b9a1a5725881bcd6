"""From a distribution's bzImage to the uncompressed ELF kernel that QEMU starts by its PVH entry: no firmware, no
decompression inside the guest (which costs seconds where instructions are emulated)."""

from __future__ import annotations

import struct

from infra.guest.decompress import decompress
from infra.guest.elf import has_pvh_entry
from infra.guest.packages import GuestError

SETUP_SECTORS, MAGIC, PAYLOAD = 0x1F1, 0x202, 0x248
"""offsets in the boot header (Linux x86 boot protocol, 2.08 and later)"""


def extract(image: bytes, what: str) -> bytes:
    """The kernel inside the bzImage `image`. Raises GuestError."""
    if image[MAGIC : MAGIC + 4] != b"HdrS":
        raise GuestError(f"{what} is not a Linux bzImage (no boot header)")
    # 0 means 4 here, for the sake of very old boot loaders
    base = ((image[SETUP_SECTORS] or 4) + 1) * 512
    offset, length = struct.unpack_from("<II", image, PAYLOAD)
    kernel = decompress(image[base + offset : base + offset + length], what)
    if not has_pvh_entry(kernel):
        raise GuestError(f"{what} has no PVH entry: a kernel built with CONFIG_PVH=y is needed")
    return kernel
