"""Disk formats of other hypervisors, read by ourselves before qemu-img opens them. Pure but for `read`, which is handed in.

What comes from outside must stand alone: a descriptor may name other files (extents, a parent), which would be opened. And it
must be whole: what a table points to behind the end of a file reads as zeros, so that a cut file would become a disk with holes.
Offsets and sizes are bytes; VMDK, VDI and VHDX are little-endian, VHD is big-endian.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Callable

from proto.images import ImageFormat
from services.node.drivers import BadImage
from services.node.drivers.qemu.qcow2 import check_size

type Read = Callable[[int, int], bytes]
"""so many bytes from there; fewer at the end"""

SECTOR = 512
DESCRIPTOR_BYTES_MAX = 64 << 10
DESCRIPTOR_LINES_MAX = 1000
VMDK_HEADER = struct.Struct("<4sIIQQQQIQQQ")
VMDK_PARENT_AT = 0x200
"""where qemu-img looks for a parent's name, wherever the header says that the descriptor is"""
VMDK_KINDS = ("monolithicSparse", "streamOptimized")
VHDX_REGIONS_AT = 192 << 10
VHDX_ENTRIES_MAX = 2047
VHDX_METADATA = uuid.UUID("8B7CA206-4790-4B9A-B8FE-575F050F886E").bytes_le
VHDX_PARAMETERS = uuid.UUID("CAA16737-FA36-4D43-B3B6-33F0AA44E76B").bytes_le
VDI_SIGNATURE = 0xBEDA107F
VHD_FIXED, VHD_DYNAMIC, VHD_DIFFERENCING = 2, 3, 4
ALONE = "give an image that stands alone: `qemu-img convert -O qcow2 OLD NEW` makes one where its other files are"


def check(format: ImageFormat, read: Read, file_bytes: int) -> None:
    """Raises BadImage unless the file begins as that format does, stands alone and is not cut off, as far as its header tells."""
    match format:
        case ImageFormat.VMDK:
            _vmdk(read, file_bytes)
        case ImageFormat.VHDX:
            _vhdx(read)
        case ImageFormat.VDI:
            _vdi(read, file_bytes)
        case ImageFormat.VHD:
            _vhd(read, file_bytes)
        case _:
            raise BadImage(f"{format} is not one disk of another hypervisor")


def _not(format: str, read: Read) -> BadImage:
    began = read(0, 8).hex() or "nothing"
    return BadImage(f"the file is not {format} (it begins with {began}): name its true format")


# --- VMDK ----------------------------------------------------------------------------------------------------------------


def _vmdk(read: Read, file_bytes: int) -> None:
    start = read(0, VMDK_HEADER.size)
    if start.startswith((b"# Disk", b"#Disk")):
        raise BadImage(f"the file is a VMDK descriptor, its data are in other files, which are not taken; {ALONE}")
    if start[:4] == b"COWD":
        raise BadImage(f"the file is a VMDK of an ESX host's own kind (COWD); {ALONE}")
    if len(start) < VMDK_HEADER.size or start[:4] != b"KDMV":
        raise _not("vmdk", read)
    _, version, _, capacity, _, at, length, *_ = VMDK_HEADER.unpack(start)
    if version not in (1, 2, 3):
        raise BadImage(f"VMDK version {version} is unknown; versions 1 to 3 are")
    if not capacity or not at or not length:
        raise BadImage(f"the VMDK has no data of its own, or no descriptor of what it is; {ALONE}")
    check_size(capacity * SECTOR)
    if length * SECTOR > DESCRIPTOR_BYTES_MAX or (at + length) * SECTOR > file_bytes:
        raise BadImage("the VMDK's descriptor does not fit in it: the header is damaged, or the file was cut off")
    descriptor = read(at * SECTOR, length * SECTOR).split(b"\0", 1)[0].decode("latin-1")
    hidden = read(VMDK_PARENT_AT, DESCRIPTOR_BYTES_MAX).decode("latin-1")
    _vmdk_descriptor(descriptor)
    if "parentFileNameHint" in descriptor or "parentFileNameHint" in hidden.split("\0", 1)[0]:
        raise BadImage(f"the VMDK names a parent, which is not accepted from outside; {ALONE}")


def _vmdk_descriptor(text: str) -> None:
    fields: dict[str, str] = {}
    extents: list[str] = []
    for line in text.splitlines()[:DESCRIPTOR_LINES_MAX]:
        key, equals, value = line.partition("=")
        words = line.split(None, 3)
        if len(words) >= 3 and words[0] in ("RW", "RDONLY", "NOACCESS"):
            extents.append(words[2])
        elif equals:
            fields[key.strip()] = value.strip().strip('"')
    kind = fields.get("createType", "")
    if kind not in VMDK_KINDS:
        raise BadImage(f"the VMDK is of the kind {kind[:40]!r}; {' and '.join(VMDK_KINDS)} hold all their data; {ALONE}")
    if fields.get("parentCID", "ffffffff").lower() != "ffffffff":
        raise BadImage(f"the VMDK stands on a parent, which is not accepted from outside; {ALONE}")
    if extents != ["SPARSE"]:
        said = ", ".join(extents[:4])[:80] or "none"
        raise BadImage(f"the VMDK has {len(extents)} extents ({said}); one that is SPARSE is in the file itself; {ALONE}")


# --- VHDX ----------------------------------------------------------------------------------------------------------------


def _vhdx(read: Read) -> None:
    if read(0, 8) != b"vhdxfile":
        raise _not("vhdx", read)
    if _vhdx_flags(read) & 2:
        raise BadImage(f"the VHDX stands on a parent, which is not accepted from outside; {ALONE}")


def _vhdx_flags(read: Read) -> int:
    """Bit 0: fixed, bit 1: it has a parent."""
    for region, at, _ in _vhdx_table(read, VHDX_REGIONS_AT, b"regi", count_at=8, entries_at=16, form="<16sQI"):
        if region != VHDX_METADATA:
            continue
        for item, offset, length in _vhdx_table(read, at, b"metadata", count_at=10, entries_at=32, form="<16sII"):
            if item == VHDX_PARAMETERS and length >= 8 and len(value := read(at + offset, 8)) == 8:
                return int(struct.unpack("<II", value)[1])
    raise BadImage("the VHDX does not say what it is (no metadata): it is damaged or was cut off, fetch it again")


def _vhdx_table(
    read: Read, at: int, sign: bytes, *, count_at: int, entries_at: int, form: str
) -> list[tuple[bytes, int, int]]:
    head = read(at, entries_at)
    if len(head) < entries_at or not head.startswith(sign):
        raise BadImage(f"the VHDX has no table {sign.decode()} where it belongs: it is damaged or was cut off")
    (count,) = struct.unpack_from("<I" if count_at == 8 else "<H", head, count_at)
    if count > VHDX_ENTRIES_MAX:
        raise BadImage(f"a table of the VHDX claims {count} entries; at most {VHDX_ENTRIES_MAX} are possible")
    rows = read(at + entries_at, 32 * count)
    return [struct.unpack_from(form, rows, 32 * i) for i in range(len(rows) // 32)]


# --- VDI -----------------------------------------------------------------------------------------------------------------


def _vdi(read: Read, file_bytes: int) -> None:
    head = read(0, 512)
    if len(head) < 512 or struct.unpack_from("<I", head, 64)[0] != VDI_SIGNATURE:
        raise _not("vdi", read)
    (kind,) = struct.unpack_from("<I", head, 76)
    if kind not in (1, 2):
        raise BadImage(f"the VDI is of type {kind}; 1 (grows) and 2 (fixed) stand alone; {ALONE}")
    if any(head[424:456]):
        raise BadImage(f"the VDI stands on a parent, which is not accepted from outside; {ALONE}")
    (data_at,) = struct.unpack_from("<I", head, 344)
    size, block, extra, blocks, allocated = struct.unpack_from("<QIIII", head, 368)
    check_size(size)
    if not block or blocks * block < size or allocated > blocks:
        raise BadImage("the VDI's figures contradict one another: the header is damaged")
    _check_whole(data_at + allocated * (block + extra), file_bytes)


# --- VHD -----------------------------------------------------------------------------------------------------------------


def _vhd(read: Read, file_bytes: int) -> None:
    foot = read(max(0, file_bytes - SECTOR), SECTOR)
    if not foot.startswith(b"conectix"):
        if read(0, 8) == b"conectix":
            raise BadImage("the VHD does not end as one: it was cut off, fetch it again")
        raise BadImage("the file is not vhd (it does not end as one): name its true format, or fetch it again")
    (size,) = struct.unpack_from(">Q", foot, 48)
    (kind,) = struct.unpack_from(">I", foot, 60)
    if kind == VHD_DIFFERENCING:
        raise BadImage(f"the VHD stands on a parent, which is not accepted from outside; {ALONE}")
    if kind not in (VHD_FIXED, VHD_DYNAMIC):
        raise BadImage(f"the VHD is of type {kind}; {VHD_FIXED} (fixed) and {VHD_DYNAMIC} (grows) stand alone")
    check_size(size)
    if kind == VHD_FIXED:
        _check_whole(size + SECTOR, file_bytes)


def _check_whole(ends: int, file_bytes: int) -> None:
    if ends > file_bytes:
        raise BadImage(f"the file has {file_bytes} bytes and its data reach to {ends}: it was cut off, fetch it again")
