"""What cloud-init begins with (the NoCloud data source): an ISO with the label CIDATA, made when its VM is first started.

What is in it was sent to the gateway, which put it beside the pool's other incoming files; the log knows its name and digest only.
The instance id is the VM's UUID: the same through restarts, another for every other VM. Blocking.
"""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
from pathlib import Path

import msgspec
import pycdlib

from proto.machine import Disk
from proto.seeds import SEED_BYTES_MAX, SeedContent
from services.node.drivers import CannotStart
from services.node.drivers.qemu import disks
from services.node.drivers.qemu.qemu_img import sync

LABEL = "CIDATA"


def make(pool: Path, disk: Disk, instance: str, uid: int | None) -> None:
    """The drive's file, where it is missing. Raises CannotStart, OSError."""
    path = pool / "disks" / disk.file
    if not path.exists():
        _publish(path, iso(_read(pool, disk), instance))
    disks.own_file(path, uid)


def _read(pool: Path, disk: Disk) -> SeedContent:
    assert disk.seed is not None
    path = pool / "incoming" / disk.seed.file
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
            data = file.read(SEED_BYTES_MAX + 1)
    except OSError as error:
        said = f"what {disk.name} is to begin with ({path}) cannot be read: {error.strerror}"
        raise CannotStart(f"{said}; detach {disk.name}, or create the VM anew") from error
    if len(data) > SEED_BYTES_MAX or hashlib.sha256(data).hexdigest() != disk.seed.sha256:
        raise CannotStart(f"{path} is not what the VM was created with: its digest differs; create the VM anew")
    try:
        return msgspec.json.decode(data, type=SeedContent)
    except msgspec.MsgspecError as error:
        raise CannotStart(f"{path} is no seed: {error}") from error


def iso(content: SeedContent, instance: str) -> bytes:
    """The ISO's bytes. Its meta-data are JSON, which is YAML."""
    meta: dict[str, object] = {"instance-id": instance}
    if content.hostname:
        meta["local-hostname"] = content.hostname
    if content.ssh_keys:
        meta["public-keys"] = list(content.ssh_keys)
    files = {"meta-data": msgspec.json.encode(meta) + b"\n", "user-data": content.user_data.encode()}
    if content.network_config:
        files["network-config"] = content.network_config.encode()
    made, out = pycdlib.PyCdlib(), io.BytesIO()
    made.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident=LABEL)
    for name, data in files.items():
        short = name.upper().replace("-", "")[:8]
        made.add_fp(io.BytesIO(data), len(data), f"/{short}.;1", rr_name=name, joliet_path=f"/{name}")
    made.write_fp(out)
    made.close()
    return out.getvalue()


def _publish(path: Path, data: bytes) -> None:
    fd, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".draft", dir=path.parent)
    draft = Path(name)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
        sync(draft)
        draft.rename(path)
        sync(path.parent)
    finally:
        draft.unlink(missing_ok=True)
