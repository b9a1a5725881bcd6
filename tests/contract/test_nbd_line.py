"""What the agent itself reads and writes of an NBD export: by a server of QEMU's, and by one with ways of its own."""

from __future__ import annotations

import socket
import struct
import threading
from pathlib import Path

import pytest

from services.node.drivers.qemu.stores.nbd_line import AHEAD, PIECE, Line
from services.node.drivers.qemu.stores.settings import Nbd
from tests.contract.store_rigs import NbdRig


def test_what_is_written_is_read_and_what_is_trimmed_takes_no_room(tmp_path: Path) -> None:
    rig = NbdRig(tmp_path, ("asv",), 64, backups="asv")
    at = rig.remotes()["other"]
    assert isinstance(at, Nbd)
    data = bytes(range(256)) * (5 << 12) + b"end"
    try:
        with Line(at, "asv") as line:
            assert (line.size, line.writable) == (64 << 20, True)
            line.write(3_000_001, data)
            line.flush()
            assert line.read(3_000_001, len(data)) == data and line.read(0, 10) == bytes(10)
            took = (rig.files / "asv").stat().st_blocks
            line.trim(0, 64 << 20)
            assert (rig.files / "asv").stat().st_blocks < took
            with pytest.raises(OSError, match=r"Invalid|No space"):
                line.read(64 << 20, 1)
        with pytest.raises(OSError, match="it has no export other"):
            Line(at, "other")
        rig.restart()
        with Line(at, "asv") as line:
            rig.restart()
            with pytest.raises(OSError):
                line.read(0, 1)
    finally:
        rig.end()


class Backwards:
    """An NBD server that answers reads in the opposite order, as one with many threads may; each MiB holds its number."""

    def __init__(self) -> None:
        self.listens = socket.create_server(("127.0.0.1", 0))
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    def _serve(self) -> None:
        sock, _ = self.listens.accept()
        with sock, sock.makefile("rb") as said:
            sock.sendall(b"NBDMAGICIHAVEOPT" + struct.pack(">H", 1))
            said.read(4)
            _, option, length = struct.unpack(">QII", said.read(16))
            said.read(length)
            info = struct.pack(">HQH", 0, 64 * PIECE, 1)
            for kind, body in ((3, info), (1, b"")):
                sock.sendall(struct.pack(">QIII", 0x3E889045565A9, option, kind, len(body)) + body)
            while True:
                asked = [struct.unpack(">IHHQQI", said.read(28)) for _ in range(AHEAD)]
                for _, _, _, handle, at, count in reversed(asked):
                    sock.sendall(struct.pack(">IIQ", 0x67446698, 0, handle) + bytes([at // PIECE]) * count)
                if asked[-1][4] == (AHEAD - 1) * PIECE:
                    return


def test_what_is_read_is_in_order_whatever_order_the_server_answers_in() -> None:
    server = Backwards()
    with Line(Nbd(host="127.0.0.1", port=server.listens.getsockname()[1]), "asv") as line:
        got = [bytes(part[:1]) for part in line.parts(0, AHEAD * PIECE)]
    assert got == [bytes([number]) for number in range(AHEAD)]
    server.thread.join()
    server.listens.close()
