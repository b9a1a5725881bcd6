"""What is needed of ELF: a program's libraries and interpreter, and whether a kernel can be started by PVH."""

from __future__ import annotations

import struct
from collections.abc import Iterator

PT_LOAD, PT_DYNAMIC, PT_INTERP, PT_NOTE = 1, 2, 3, 4
DT_NEEDED, DT_STRTAB = 1, 5
XEN_ELFNOTE_PHYS32_ENTRY = 18


def _segments(image: bytes) -> Iterator[tuple[int, int, int, int]]:
    """(type, file offset, virtual address, size in the file) of a 64-bit little-endian image."""
    if image[:6] != b"\x7fELF\x02\x01":
        raise ValueError("not a 64-bit little-endian ELF file")
    (start,) = struct.unpack_from("<Q", image, 32)
    size, count = struct.unpack_from("<HH", image, 54)
    for index in range(count):
        kind, _, offset, address, _, length = struct.unpack_from("<IIQQQQ", image, start + index * size)
        yield kind, offset, address, length


def interpreter(image: bytes) -> str:
    """The path of the dynamic loader; empty for a static program."""
    for kind, offset, _, length in _segments(image):
        if kind == PT_INTERP:
            return image[offset : offset + length].rstrip(b"\0").decode()
    return ""


def needed(image: bytes) -> list[str]:
    """The file names of the shared libraries that the image is linked with, in its order."""
    segments = list(_segments(image))
    names: list[int] = []
    strings = 0
    for kind, offset, _, length in segments:
        if kind != PT_DYNAMIC:
            continue
        for tag, value in struct.iter_unpack("<QQ", image[offset : offset + length // 16 * 16]):
            if tag == DT_NEEDED:
                names.append(value)
            elif tag == DT_STRTAB:
                strings = _offset(segments, value)
    return [_text(image, strings + name) for name in names]


def _offset(segments: list[tuple[int, int, int, int]], address: int) -> int:
    for kind, offset, base, length in segments:
        if kind == PT_LOAD and base <= address < base + length:
            return address - base + offset
    raise ValueError(f"address {address:#x} lies in no segment of the file")


def _text(image: bytes, at: int) -> str:
    return image[at : image.index(b"\0", at)].decode()


def has_pvh_entry(image: bytes) -> bool:
    """Whether QEMU can start this kernel directly: it carries the note with the PVH entry point."""
    for kind, offset, _, length in _segments(image):
        if kind == PT_NOTE and XEN_ELFNOTE_PHYS32_ENTRY in _xen_notes(image[offset : offset + length]):
            return True
    return False


def _xen_notes(notes: bytes) -> set[int]:
    found: set[int] = set()
    at = 0
    while at + 12 <= len(notes):
        name_size, data_size, kind = struct.unpack_from("<III", notes, at)
        name = notes[at + 12 : at + 12 + name_size]
        if name.rstrip(b"\0") == b"Xen":
            found.add(kind)
        at += 12 + (name_size + 3) // 4 * 4 + (data_size + 3) // 4 * 4
    return found
