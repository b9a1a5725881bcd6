"""The QEMU process: who it is, how it is started without privileges, how its end is seen.

Started by root, QEMU runs under a user id of its own: UID_BASE plus 24 bits of its VM's name. That range is given to nobody
by the usual tools (systemd keeps 0x70000000 and up unused), needs no entry in /etc/passwd, and is the same on every node, so
that a disk on shared storage keeps its owner. Two VMs may share one (1 in 16 million per pair): they then lose the isolation
between them, nothing else. Where the kernel does not map that range (a container's user namespace) it is `nobody`. Started by
an ordinary user, QEMU runs as that user.

The order of a birth: `sh` is started with all that QEMU is to inherit and waits at a gate; the agent puts it into its control
group and writes its record; then the gate opens and `sh` becomes QEMU by exec. An agent that dies in between leaves nothing:
the gate's other end is gone, and `sh` ends. Process id and start time stay the same across exec.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import stat
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

UID_BASE = 0x70000000
UID_NOBODY = 65534
GATE = 'ulimit -c 0; read -r _ && exec "$@" </dev/null'
"""No core files: they would hold the guest's memory."""


def host_boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def uid_for(vm: str) -> int | None:
    """The user and group id for a VM's process; None: as we are."""
    if os.geteuid() != 0:
        return None
    wanted = UID_BASE + int.from_bytes(hashlib.sha256(vm.encode()).digest()[:3], "big")
    for line in Path("/proc/self/uid_map").read_text(encoding="ascii").splitlines():
        inside, _, count = (int(word) for word in line.split())
        if inside <= wanted < inside + count:
            return wanted
    return UID_NOBODY


def start_ticks(pid: int) -> int | None:
    """When the process began, in clock ticks since boot; None: there is none, or it is dead and only waits to be reaped."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    words = text.rpartition(")")[2].split()  # the name before it may hold anything
    return None if words[0] in "ZX" else int(words[19])


def enterable(folder: Path, uid: int | None) -> bool:
    """Whether that user can reach the folder by its path."""
    if uid is None:
        return True
    for part in [folder, *folder.parents]:
        seen = part.stat()
        if not (seen.st_mode & stat.S_IXOTH or (seen.st_uid == uid and seen.st_mode & stat.S_IXUSR)):
            return False
    return True


class Process:
    """A running QEMU, ours or adopted. `ended` is set at its end; `code` is known for children of this process only."""

    def __init__(self, pid: int, ticks: int, *, born: bool = False) -> None:
        """born: it is our own child and nobody has waited for it. Else raises ProcessLookupError when that very process (id and
        start time) is not there any more."""
        self.pid = pid
        self.ticks = ticks
        self.ended = asyncio.Event()
        self.code: int | None = None
        self._pidfd = os.pidfd_open(pid)
        if not born and start_ticks(pid) != ticks:
            os.close(self._pidfd)
            raise ProcessLookupError(f"process {pid} is another one")
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._pidfd, self._seen)

    def kill(self) -> None:
        """SIGKILL to this process and no other: by its handle, never by number."""
        try:
            if self._pidfd >= 0:
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        except ProcessLookupError:
            pass  # it has ended

    def release(self) -> None:
        """Watch no longer; the process runs on."""
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1

    def _seen(self) -> None:
        try:
            self.code = os.waitstatus_to_exitcode(os.waitpid(self.pid, os.WNOHANG)[1])
        except ChildProcessError:
            pass  # an adopted one: its parent is init
        self.release()
        self.ended.set()


def spawn(
    argv: Sequence[str],
    *,
    folder: Path,
    log: Path,
    uid: int | None,
    groups: Sequence[int],
    inherit: Sequence[int],
    before: Callable[[int], None],
) -> int:
    """The process id. Start `argv` with `folder` as its working folder. `before(pid)` runs while it waits at the gate; when
    that raises, nothing is left. Raises OSError."""
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        child = subprocess.Popen(
            ["/bin/sh", "-c", GATE, "gate", *argv],
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=out,
            cwd=folder,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"},
            user=uid,
            group=uid,
            extra_groups=None if uid is None else list(groups),
            umask=0o077,
            pass_fds=tuple(inherit),
            start_new_session=True,  # a terminal's Ctrl-C and the agent's end are none of its business
        )
    finally:
        os.close(out)
    assert child.stdin is not None
    try:
        before(child.pid)
        child.stdin.write(b"\n")
        child.stdin.close()
    except BaseException:
        child.kill()
        child.wait()
        raise
    child.returncode = 0  # Process waits for it, or the next agent; Popen is not to
    return child.pid
