"""Stores that disks can be in, as far as they run on this machine: files, exports of an NBD server, images of a Ceph cluster."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import pytest

from services.node.drivers.qemu.stores.settings import Remote, parse


class StoreRig(Protocol):
    """pools, remotes: as the driver is to have them; the pool of the store is `other`."""

    kind: str

    def pools(self) -> dict[str, Path]: ...
    def remotes(self) -> dict[str, Remote]: ...


class FolderRig:
    kind = "folder"

    def __init__(self, top: Path) -> None:
        self._top = top

    def pools(self) -> dict[str, Path]:
        return {"other": self._top / "other"}

    def remotes(self) -> dict[str, Remote]:
        return {}


class NbdRig:
    """qemu-storage-daemon on loopback; each export is a file of `files`."""

    kind = "nbd"

    def __init__(
        self, top: Path, exports: Sequence[str], size_mib: int, files: Path | None = None, backups: str = ""
    ) -> None:
        program = shutil.which("qemu-storage-daemon")
        if program is None:
            pytest.skip("qemu-storage-daemon is not installed")
        self.leases = top / "leases"
        self.leases.mkdir()
        self._backups = f"&backups={backups}" if backups else ""
        self.files = files = files or top / "exports"
        files.mkdir(exist_ok=True)
        self.port = 0
        words = list[str]()
        for n, name in enumerate(exports):
            with (files / name).open("wb") as file:
                file.truncate(size_mib << 20)
            words += ["--blockdev", f"file,node-name=f{n},filename={files / name},discard=unmap"]
            words += ["--blockdev", f"raw,node-name=d{n},file=f{n},discard=unmap"]
            words += ["--export", f"nbd,id=e{n},node-name=d{n},name={name},writable=on"]
        self._program, self._words = program, words
        self._server = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        """It is given the socket, so nobody else can have its port, and whoever calls before it is ready waits for it."""
        with socket.create_server(("127.0.0.1", self.port)) as listens:
            self.port = listens.getsockname()[1]
            fd = listens.fileno()
            serves = ("--nbd-server", f"addr.type=fd,addr.str={fd}")
            return subprocess.Popen([self._program, *serves, *self._words], pass_fds=(fd,))

    def pools(self) -> dict[str, Path]:
        return {"other": parse("other", self._url)[0]}

    def remotes(self) -> dict[str, Remote]:
        return {"other": parse("other", self._url)[1]}

    @property
    def _url(self) -> str:
        return f"nbd://127.0.0.1:{self.port}?leases={self.leases}{self._backups}"

    def restart(self) -> None:
        """As after a crash of the server."""
        self._server.kill()
        self._server.wait()
        self._server = self._start()

    def hang(self) -> None:
        """It holds its connections, and answers nothing."""
        self._server.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._server.send_signal(signal.SIGCONT)

    def end(self) -> None:
        self._server.kill()
        self._server.wait()


class RbdRig:
    """A pool of a real cluster: ASV_TEST_RBD=rbd://POOL?conf=…&user=…"""

    kind = "rbd"

    def __init__(self, top: Path) -> None:
        url = os.environ.get("ASV_TEST_RBD", "")
        if not url or shutil.which("rbd") is None:
            pytest.skip("no Ceph cluster: name a pool in ASV_TEST_RBD, with the package ceph-common and QEMU's rbd driver")
        leases = top / "leases"
        leases.mkdir()
        self._parsed = parse("other", f"{url}{'&' if '?' in url else '?'}leases={leases}")

    def pools(self) -> dict[str, Path]:
        return {"other": self._parsed[0]}

    def remotes(self) -> dict[str, Remote]:
        return {"other": self._parsed[1]}


@contextmanager
def store_rig(kind: str, top: Path, exports: Sequence[str], size_mib: int, files: Path | None = None) -> Iterator[StoreRig]:
    if kind == "nbd":
        rig = NbdRig(top, exports, size_mib, files)
        try:
            yield rig
        finally:
            rig.end()
    else:
        yield RbdRig(top) if kind == "rbd" else FolderRig(top)
