"""An OVA: a tar with a description (.ovf), digests (.mf) and disks. One of them is taken out, its digest having been checked.
Blocking. A signature (.cert) is not looked at: it would say who made the appliance, not that it is whole."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from proto.images import Suggestion
from services.node.drivers import BadImage
from services.node.drivers.qemu import ova_tar, ovf
from services.node.drivers.qemu.ova_tar import Member
from services.node.drivers.qemu.ovf import Appliance, ApplianceDisk

CHUNK_BYTES = 1 << 20


def take(fd: int, wanted: str, target: Path) -> tuple[ApplianceDisk, Suggestion]:
    """Write the wanted disk (by its name or its file; "": the first) to `target`, which must not exist. Raises BadImage."""
    found = ova_tar.members(fd, os.fstat(fd).st_size)
    appliance = _described(fd, found)
    disk = _chosen(appliance, wanted)
    if disk.file not in found:
        raise BadImage(f"the disk {disk.name!r} is in {disk.file[:80]!r}, which is not in the OVA: it was not packed whole")
    _check_digests(fd, found, disk)
    with target.open("xb") as out:
        for chunk in _chunks(fd, found[disk.file]):
            if chunk.count(0) == len(chunk):
                out.seek(len(chunk), os.SEEK_CUR)
            else:
                out.write(chunk)
        out.truncate(found[disk.file].size)
    target.chmod(0o644)
    others = tuple(one.name for one in appliance.disks if one is not disk)
    return disk, msgspec.structs.replace(appliance.suggests, disks=(disk.name, *others))


def _described(fd: int, found: Mapping[str, Member]) -> Appliance:
    names = [name for name in found if name.lower().endswith(".ovf")]
    if len(names) != 1:
        raise BadImage(f"the OVA holds {len(names)} files that end in .ovf; it is described by one")
    return ovf.parse(_small(fd, found[names[0]], ovf.OVF_BYTES_MAX))


def _chosen(appliance: Appliance, wanted: str) -> ApplianceDisk:
    if not wanted:
        return appliance.disks[0]
    for disk in appliance.disks:
        if wanted in (disk.name, disk.file):
            return disk
    has = ", ".join(disk.name for disk in appliance.disks)
    raise BadImage(f"the OVA has no disk {wanted[:80]!r}; it has {has}")


def _check_digests(fd: int, found: Mapping[str, Member], disk: ApplianceDisk) -> None:
    """All that the manifest names; the disk that is taken has to be among them."""
    names = [name for name in found if name.lower().endswith(".mf")]
    if not names:
        return
    if len(names) > 1:
        raise BadImage(f"the OVA holds {len(names)} manifests; one is possible")
    said = ovf.manifest(_small(fd, found[names[0]], ovf.MANIFEST_BYTES_MAX))
    described = next(name for name in found if name.lower().endswith(".ovf"))
    for name in (described, disk.file):
        if name not in said:
            raise BadImage(f"the OVA's manifest does not name {name!r}: whether it is whole cannot be known")
    for name, (algorithm, digest) in said.items():
        if name not in found:
            raise BadImage(f"the OVA's manifest names {name[:80]!r}, which is not there: it was not packed whole")
        hashed = hashlib.new(algorithm, usedforsecurity=False)
        for chunk in _chunks(fd, found[name]):
            hashed.update(chunk)
        if hashed.hexdigest() != digest:
            said_so = f"{name!r} in the OVA has the {algorithm} {hashed.hexdigest()}, not {digest}"
            raise BadImage(f"{said_so}: it is damaged, fetch it again")


def _small(fd: int, member: Member, bytes_max: int) -> bytes:
    if member.size > bytes_max:
        raise BadImage(f"{member.name!r} in the OVA has {member.size} bytes; at most {bytes_max} are read")
    return os.pread(fd, member.size, member.at)


def _chunks(fd: int, member: Member) -> Iterator[bytes]:
    done = 0
    while done < member.size:
        chunk = os.pread(fd, min(CHUNK_BYTES, member.size - done), member.at + done)
        if not chunk:
            raise BadImage(f"the OVA ends inside {member.name!r}: it was cut off, fetch it again")
        done += len(chunk)
        yield chunk
