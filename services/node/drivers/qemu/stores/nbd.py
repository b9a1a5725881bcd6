"""Disks that are exports of an NBD server. They are made there, by whoever looks after it, under the name of the disk's file: NBD
knows no word for making one. What is on an export is what the guest finds."""

from __future__ import annotations

import socket
import struct

from proto.machine import Disk, DiskFormat
from proto.space import PoolKind
from services.node.drivers import CannotStart
from services.node.drivers.qemu.devices import Backing
from services.node.drivers.qemu.stores.settings import Nbd

MIB = 1 << 20
ASK_S_MAX = 5.0
REPLY_BYTES_MAX = 64 * 1024
REPLIES_MAX = 64
_GREETING = b"NBDMAGICIHAVEOPT"
_OPT_MAGIC, _REPLY_MAGIC = 0x49484156454F5054, 0x3E889045565A9
_FIXED_NEWSTYLE = 1
_OPT_ABORT, _OPT_INFO = 2, 6
_ACK, _INFO, _ERROR, _UNKNOWN = 1, 3, 1 << 31, (1 << 31) + 6
_EXPORT = 0
_READ_ONLY = 2


class NbdStore:
    kind = PoolKind.NBD

    def __init__(self, name: str, at: Nbd) -> None:
        self._name = name
        self._at = at

    def place(self, disk: Disk) -> str:
        return f"the export {disk.file} of the NBD server at {self._at.server}"

    def exists(self, disk: Disk) -> bool:
        return self._ask(disk) is not None

    def make(self, disk: Disk, base: Backing | None) -> None:
        self._check(disk)
        raise CannotStart(
            f"{self.place(disk)} is not there, and disks of pool {self._name} are not made from here: "
            f"make it there, of {disk.size_mib} MiB or more"
        )

    def ready(self, disk: Disk, uid: int | None) -> None:
        self._check(disk)
        found = self._ask(disk)
        if found is None:
            self.make(disk, None)
            return
        size, flags = found
        if size < disk.size_mib * MIB:
            said = f"{self.place(disk)} is of {size // MIB} MiB; {disk.name} is to have {disk.size_mib}"
            raise CannotStart(f"{said}: make it larger there")
        if flags & _READ_ONLY:
            raise CannotStart(f"{self.place(disk)} is read-only: export it for writing")

    def _check(self, disk: Disk) -> None:
        if disk.format is not DiskFormat.RAW or disk.image:
            what = f"on the image {disk.image}" if disk.image else f"as {disk.format}"
            said = f"{disk.name} in pool {self._name} is wanted {what}"
            raise CannotStart(f"{said}: disks of an NBD pool are raw, and stand on no image")

    def is_open(self, disk: Disk) -> bool:
        """A server does not say whom it serves: the lease is what is asked."""
        return False

    def remove(self, disk: Disk) -> None:
        """It is not ours to remove: it stays, with what is on it."""

    def _ask(self, disk: Disk) -> tuple[int, int] | None:
        """Size in bytes, and flags; None: there is no such export. Raises CannotStart where the server does not answer."""
        try:
            with self._dial() as sock:
                return _look(sock, disk.file)
        except (OSError, struct.error) as error:
            raise CannotStart(f"the NBD server at {self._at.server} does not answer ({error}): see that it runs") from error

    def _dial(self) -> socket.socket:
        if not self._at.socket:
            return socket.create_connection((self._at.host, self._at.port), ASK_S_MAX)
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(ASK_S_MAX)
        try:
            sock.connect(self._at.socket)
        except OSError:
            sock.close()
            raise
        return sock


def _look(sock: socket.socket, export: str) -> tuple[int, int] | None:
    """The protocol's NBD_OPT_INFO, and a good-bye. Raises OSError."""
    if _read(sock, len(_GREETING)) != _GREETING:
        raise OSError("it speaks another protocol")
    flags = struct.unpack(">H", _read(sock, 2))[0]
    if not flags & _FIXED_NEWSTYLE:
        raise OSError("it speaks an old form of the protocol")
    name = export.encode()
    sock.sendall(struct.pack(">I", _FIXED_NEWSTYLE) + _option(_OPT_INFO, struct.pack(">I", len(name)) + name + b"\0\0"))
    found: tuple[int, int] | None = None
    for _ in range(REPLIES_MAX):
        magic, _, kind, length = struct.unpack(">QIII", _read(sock, 20))
        if magic != _REPLY_MAGIC or length > REPLY_BYTES_MAX:
            raise OSError("it answers what is no reply")
        body = _read(sock, length)
        if kind == _INFO and len(body) >= 12 and struct.unpack(">H", body[:2])[0] == _EXPORT:
            found = struct.unpack(">QH", body[2:12])
        elif kind == _UNKNOWN:
            return None
        elif kind & _ERROR:
            raise OSError(f"error {kind - _ERROR}: {body.decode('utf-8', 'replace')[:200]}")
        elif kind == _ACK:
            sock.sendall(_option(_OPT_ABORT, b""))
            return found
    raise OSError("it does not come to an end")


def _option(option: int, data: bytes) -> bytes:
    return struct.pack(">QII", _OPT_MAGIC, option, len(data)) + data


def _read(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        chunk = sock.recv(count - len(data))
        if not chunk:
            raise OSError("it hung up")
        data += chunk
    return data
