"""The folder of one VM's process, `<state>/vms/<vm>/`: what the agent must find again after its own end.

    record    who it is: VM, generation, process id and start time (a process id alone may be reused). Not QEMU's own
              -pidfile: that one it resolves by its full path, which its user may not be able to pass
    monitor, agent, serial, guard    listening unix sockets, made by the agent and inherited by QEMU; guard: a second monitor, that
            of the node's watchdog, which finds the processes that it guards by these records
    log       what QEMU said on stdout and stderr, cut by the agent to LOG_BYTES_MAX
    own/      QEMU's working folder, the only one it may write to: `vnc` (unix socket), for a moment `screen.png`

A unix socket's address holds 107 bytes at most, and state may lie deep. So no socket is ever named by its full path: the agent
binds and dials through `/proc/self/fd/<the folder>`, and QEMU's own one is relative to its working folder.
"""

from __future__ import annotations

import errno
import os
import shutil
import socket
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from proto.hardware import Took
from services.node.pacing import Pace

LOG_BYTES_MAX = 256 * 1024
TAIL_BYTES = 4096
RECORD_BYTES_MAX = 64 * 1024


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """A process. start_ticks: /proc/PID/stat's start time; boot_id: of the host; resets: system resets asked for by verb;
    cgroup: its group, empty where none could be made; former: those it was in before its class changed. incoming: where it waits
    for its guest, until that was activated; pools: those whose lease is to be taken then. plugging: a vCPU is being plugged, and
    its guest may stand still for that (fit_emulated.py). frozen: its file systems may stand still (freezer.py); took: how
    the latest snapshot went. protected: it may start elsewhere when this node's lease is spent, so it may not outlive that here.
    pace: of its data that comes home: what its guest's writes took before."""

    vm: str
    generation: int
    pid: int
    start_ticks: int
    boot_id: str
    resets: int = 0
    cgroup: str = ""
    incoming: str = ""
    pools: tuple[str, ...] = ()
    former: tuple[str, ...] = ()
    plugging: bool = False
    frozen: bool = False
    took: Took | None = None
    protected: bool = False
    pace: Pace | None = None

    @property
    def groups(self) -> str:
        """All of them, a folder a line."""
        return "\n".join((*self.cgroup.splitlines(), *self.former))


class Folder:
    def __init__(self, state: Path, vm: str) -> None:
        self.vm = vm
        self.path = state / "vms" / vm

    @property
    def own(self) -> Path:
        return self.path / "own"

    @property
    def log(self) -> Path:
        return self.path / "log"

    def make(self, uid: int | None) -> None:
        """A fresh one; what an earlier process left is removed."""
        self.remove()
        self.path.mkdir(parents=True, mode=0o711)
        self.own.mkdir(mode=0o700)
        if uid is not None:
            os.chown(self.own, uid, uid)

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)

    def save(self, record: Record) -> None:
        """Atomic and durable: a record that is not there after a power cut would be harmless, half of one would not."""
        draft = self.path / f"record.draft-{threading.get_ident()}"
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, msgspec.json.encode(record))
            os.fsync(fd)
        finally:
            os.close(fd)
        draft.replace(self.path / "record")

    def load(self) -> Record | None:
        """None: no process was ever let go here (a record is saved before QEMU is executed)."""
        try:
            with (self.path / "record").open("rb") as file:
                return msgspec.json.decode(file.read(RECORD_BYTES_MAX), type=Record)
        except (OSError, msgspec.DecodeError, msgspec.ValidationError):
            return None

    def listen(self, name: str) -> socket.socket:
        """A listening unix socket of that name, for the process to inherit."""
        sock = socket.socket(socket.AF_UNIX)
        with self._handle() as folder:
            sock.bind(f"{folder}/{name}")
        (self.path / name).chmod(0o600)
        sock.listen(4)
        return sock

    def dial(self, name: str) -> socket.socket:
        """A connected, non-blocking socket. Raises OSError where nobody listens."""
        sock = socket.socket(socket.AF_UNIX)
        sock.setblocking(False)
        try:
            with self._handle() as folder:
                sock.connect(f"{folder}/{name}")
        except OSError:
            sock.close()
            raise
        return sock

    def take_own(self, name: str, bytes_max: int) -> bytes:
        """Read and remove a file that QEMU wrote. QEMU may have been taken over by its guest: what is no plain file of its own,
        as a link to somebody else's, is not read. Raises OSError."""
        path = self.own / name
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            with os.fdopen(fd, "rb") as file:
                found = os.fstat(fd)
                if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1 or found.st_uid != self.own.stat().st_uid:
                    raise OSError(errno.EPERM, "it is no plain file of QEMU's own")
                data = file.read(bytes_max + 1)
            if len(data) > bytes_max:
                raise OSError(errno.EFBIG, f"it is larger than {bytes_max} bytes")
            return data
        finally:
            path.unlink(missing_ok=True)

    def put_own(self, name: str, data: bytes) -> None:
        """A file that QEMU may read, and nobody else."""
        path, owner = self.own / name, self.own.stat()
        path.unlink(missing_ok=True)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            if owner.st_uid != os.geteuid():
                os.fchown(fd, owner.st_uid, owner.st_gid)
            os.write(fd, data)
        finally:
            os.close(fd)

    def tail(self) -> str:
        """The end of the log: at most TAIL_BYTES, one line."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(0, self.log.stat().st_size - TAIL_BYTES))
                lines = file.read(TAIL_BYTES).decode("utf-8", "replace").splitlines()
        except OSError:
            return ""
        return "; ".join(line.strip() for line in lines if line.strip())

    def cut_log(self) -> None:
        """QEMU appends, so that cutting under its hands is safe."""
        try:
            if self.log.stat().st_size > LOG_BYTES_MAX:
                os.truncate(self.log, 0)
        except OSError:
            pass  # no log, no bound to keep

    @contextmanager
    def _handle(self) -> Iterator[str]:
        fd = os.open(self.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield f"/proc/self/fd/{fd}"
        finally:
            os.close(fd)


def known(state: Path) -> list[str]:
    """The VMs that have a folder, sorted."""
    vms = state / "vms"
    return sorted(p.name for p in vms.iterdir() if p.is_dir()) if vms.is_dir() else []
