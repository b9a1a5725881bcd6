"""Compressed parts of kernel packages: told apart by their first bytes."""

from __future__ import annotations

import lzma
import shutil
import subprocess
import zlib

from infra.guest.packages import UNPACK_S_MAX, GuestError

UNPACKED_MAX = 512 << 20
"""bytes; no kernel or module comes near it"""


def decompress(data: bytes, what: str) -> bytes:
    """`data` unpacked, or as it is where it is not compressed. Bytes behind the compressed stream are ignored.
    Raises GuestError."""
    if data[:6] == b"\xfd7zXZ\0":
        return lzma.LZMADecompressor(format=lzma.FORMAT_XZ).decompress(data, UNPACKED_MAX)
    if data[:2] == b"\x1f\x8b":
        return zlib.decompressobj(31).decompress(data, UNPACKED_MAX)
    if data[:3] == b"\x5d\0\0":
        return lzma.LZMADecompressor(format=lzma.FORMAT_ALONE).decompress(data, UNPACKED_MAX)
    if data[:4] == b"\x28\xb5\x2f\xfd":
        return _zstd(data, what)
    if data[:4] == b"\x7fELF":
        return data
    raise GuestError(f"{what} is packed in an unknown way (it begins {data[:6].hex()}); known: xz, gzip, lzma, zstd")


def _zstd(data: bytes, what: str) -> bytes:
    program = shutil.which("zstd")
    if program is None:
        raise GuestError(f"{what} is packed with zstd: install the package zstd")
    done = subprocess.run([program, "-dcq"], input=data, capture_output=True, check=False, timeout=UNPACK_S_MAX)
    if not done.stdout.startswith(b"\x7fELF"):
        raise GuestError(f"{what} could not be unpacked: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout
