"""The header of a qcow2 file, read by ourselves before any other program opens it. Pure.

What comes from outside must stand alone: a header may name other files of this machine (a backing file, an external data
file), which QEMU would open and show to the guest. Numbers are big-endian; offsets and sizes are bytes.
"""

from __future__ import annotations

import struct

import msgspec

from services.node.drivers import BadImage, DriverError

HEADER_BYTES = 64 << 10
"""how much of a file's beginning `check` wants to see: header, extensions and the names behind them"""
VIRTUAL_BYTES_MAX = 64 << 40
"""64 TiB, the largest disk a VM may have"""
MAGIC = b"QFI\xfb"
NAME_BYTES_MAX = 1023
"""of a backing file, in a header"""
V2_BYTES = 72
V3_BYTES = 104
DIRTY, CORRUPT, DATA_FILE, COMPRESSION, EXTENDED_L2 = 1, 2, 4, 8, 16
END, DATA_FILE_NAME, ENCRYPTION_HEADER = 0, 0x44415441, 0x0537BE77
ALONE = "give an image that stands alone: `qemu-img convert -O qcow2 OLD NEW` makes one"


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """virtual_bytes: the disk's size as the guest sees it; features: the incompatible ones, as bits."""

    version: int
    backing_offset: int
    cluster_bits: int
    virtual_bytes: int
    encryption: int
    l1_entries: int
    l1_offset: int
    refcount_offset: int
    refcount_clusters: int
    snapshots: int
    features: int = 0
    extensions: tuple[int, ...] = ()


def parse(start: bytes) -> Header:
    """The header at the beginning of a file. Raises BadImage where it is none, or cut off."""
    if len(start) < V2_BYTES or start[:4] != MAGIC:
        began = start[:4].hex() or "nothing"
        raise BadImage(
            f"the file is not qcow2 (it begins with {began}, not 514649fb): name its true format, raw or qcow2"
        )
    fields = struct.unpack_from(">IQIIQIIQQII", start, 4)
    version, backing, _, cluster_bits, size, encryption, l1_entries, l1, refcounts, refcount_clusters, snapshots = (
        fields
    )
    if version not in (2, 3):
        raise BadImage(f"qcow2 version {version} is unknown; versions 2 and 3 are")
    features, length = 0, V2_BYTES
    if version == 3:
        if len(start) < V3_BYTES:
            raise BadImage(f"the file ends inside its header ({len(start)} bytes): it was cut off, fetch it again")
        (features,) = struct.unpack_from(">Q", start, V2_BYTES)
        (length,) = struct.unpack_from(">I", start, 100)
    return Header(
        version=version,
        backing_offset=backing,
        cluster_bits=cluster_bits,
        virtual_bytes=size,
        encryption=encryption,
        l1_entries=l1_entries,
        l1_offset=l1,
        refcount_offset=refcounts,
        refcount_clusters=refcount_clusters,
        snapshots=snapshots,
        features=features,
        extensions=_extensions(start, length),
    )


def _extensions(start: bytes, at: int) -> tuple[int, ...]:
    """The kinds of the header's extensions. Raises BadImage where the list does not end."""
    found: list[int] = []
    while at + 8 <= len(start):
        kind, length = struct.unpack_from(">II", start, at)
        if kind == END:
            return tuple(found)
        found.append(kind)
        at += 8 + (length + 7) // 8 * 8
    if not found and at + 8 > len(start):
        return ()
    raise BadImage("the header's list of extensions has no end: the file is damaged, fetch it again")


def backing_name(name: str, start: bytes) -> str:
    """What the header says that the file stands on; "": nothing. start: HEADER_BYTES of it, or all. Raises DriverError."""
    if len(start) < 20 or start[:4] != MAGIC:
        return ""
    offset, length = struct.unpack_from(">QI", start, 8)
    if not offset:
        return ""
    if length > NAME_BYTES_MAX or offset + length > len(start):
        raise DriverError(f"{name} names a backing file in {length} bytes: its header is damaged")
    return start[offset : offset + length].decode(errors="replace")


def check(start: bytes, file_bytes: int) -> Header:
    """The header of an image that stands alone and can be whole. Raises BadImage with what would be right."""
    header = parse(start)
    _check_alone(header)
    _check_numbers(header, file_bytes)
    return header


def check_whole(start: bytes, file_bytes: int) -> None:
    """Whether a file of our own, which may stand on another, can be whole. Raises BadImage."""
    _check_numbers(parse(start), file_bytes)


def _check_alone(header: Header) -> None:
    if header.backing_offset:
        raise BadImage(f"the image names a backing file, which is not accepted from outside; {ALONE}")
    if header.features & DATA_FILE or DATA_FILE_NAME in header.extensions:
        raise BadImage(f"the image keeps its data in another file, which is not accepted from outside; {ALONE}")
    if header.encryption or ENCRYPTION_HEADER in header.extensions:
        raise BadImage(f"the image is encrypted and its key is not known here; {ALONE}")
    if header.snapshots:
        raise BadImage(f"the image holds {header.snapshots} internal snapshots, of which a VM could use none; {ALONE}")


def _check_numbers(header: Header, file_bytes: int) -> None:
    unknown = header.features & ~(DIRTY | CORRUPT | DATA_FILE | COMPRESSION | EXTENDED_L2)
    if unknown:
        raise BadImage(f"the image uses features of qcow2 that are unknown here (bits {unknown:#x}); {ALONE}")
    if header.features & (DIRTY | CORRUPT):
        raise BadImage("the image is marked as damaged or still in use: close it, run `qemu-img check -r all` on it")
    if not 9 <= header.cluster_bits <= 21:
        raise BadImage(f"cluster_bits is {header.cluster_bits}; 9 to 21 are possible: the header is damaged")
    check_size(header.virtual_bytes)
    cluster = 1 << header.cluster_bits
    # an L2 table fills one cluster: with entries of 8 bytes, or of 16 with extended L2
    per_l1 = cluster * (cluster // (16 if header.features & EXTENDED_L2 else 8))
    if header.l1_entries < -(-header.virtual_bytes // per_l1):
        raise BadImage("the image's first table is too short for its size: the header is damaged")
    ends = (
        header.l1_offset + 8 * header.l1_entries,
        header.refcount_offset + header.refcount_clusters * cluster,
    )
    if max(ends) > file_bytes:
        raise BadImage(
            f"the file has {file_bytes} bytes and its tables reach to {max(ends)}: it was cut off, fetch it again"
        )
    if min(header.l1_offset, header.refcount_offset) < cluster:
        raise BadImage("a table of the image lies where its header is: the header is damaged")


def check_size(virtual_bytes: int) -> None:
    """Raises BadImage unless a VM can have a disk of that size."""
    if virtual_bytes <= 0:
        raise BadImage("the image's disk has no bytes at all; at least 512 are needed")
    if virtual_bytes > VIRTUAL_BYTES_MAX:
        tib = virtual_bytes / (1 << 40)
        raise BadImage(f"the image's disk claims {tib:.0f} TiB; at most {VIRTUAL_BYTES_MAX >> 40} TiB are possible")
