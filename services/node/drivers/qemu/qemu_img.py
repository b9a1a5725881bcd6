"""qemu-img on a short leash: CPU, memory, time and output are limited, formats are always said, and where we are root
it runs as a user who owns nothing. Blocking; `images.py` and the driver call it from threads.

Files are handed over by number, as `/proc/self/fd/N`: the tool's user need not be able to pass the folders above, and no
name can be taken for a protocol (`nbd:…`, `json:…`).
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from proto.machine import DiskFormat
from services.node.drivers import BadImage, CannotStart, DriverError, Locked

type _Words = Callable[[str], list[str]]

NOBODY = 65534
OUTPUT_BYTES_MAX = 1 << 20
SENTENCE_CHARS_MAX = 400
CHECK_ENDS = (0, 2, 3)
"""exit codes of `qemu-img check` with a report: sound, damaged, sound but with leaked clusters"""


UNDELETED = "Error when deleting file"
"""what it says before it says why a file was not made: that it cannot be removed by the name that it was handed"""
LOCKED = "Failed to get"
"""qemu-img's words where another process has the file open otherwise than it may be shared"""
UNCHECKED = (DiskFormat.RAW, "vpc")
"""of which qemu-img has no tables to walk"""


class Limits(msgspec.Struct, frozen=True):
    """What one run may use. memory_mib: of address space; wall_s: until it is killed."""

    cpu_s: int = 60
    memory_mib: int = 1024
    wall_s: float = 120.0


def for_copy(file_bytes: int) -> Limits:
    """Of one that reads a whole file: that takes its time, at four MiB a second at the slowest."""
    mib = file_bytes >> 20
    return Limits(cpu_s=60 + mib // 8, memory_mib=2048, wall_s=120.0 + mib / 4)


class Facts(msgspec.Struct, frozen=True, rename="kebab"):
    """What `qemu-img info` says; sizes in bytes."""

    format: str
    virtual_size: int
    actual_size: int = 0
    backing_filename: str = ""
    encrypted: bool = False


class _CheckReport(msgspec.Struct, frozen=True, rename="kebab"):
    corruptions: int = 0
    check_errors: int = 0


class Failed(DriverError):
    """qemu-img refused or was stopped; the text is its own first line, or which limit it met."""


class QemuImg:
    """program: found on PATH where not given. stand: puts a process that waits into the group it is to run in.
    Raises DriverError when there is none."""

    def __init__(
        self, program: str = "qemu-img", limits: Limits | None = None, stand: Callable[[int], object] | None = None
    ) -> None:
        found = shutil.which(program)
        if found is None:
            raise DriverError(f"{program} is not there: install the package qemu-utils")
        self._program = found
        self._limits = limits or Limits()
        self._stand = stand or (lambda pid: None)

    def info(self, file: Path, format: str) -> Facts:
        """format: in qemu-img's words. Raises BadImage."""
        with handed_over(file) as (name, fds):
            try:
                out = self.run(["info", "-U", "-f", format, "--output=json", name], fds, writes=False)
                return msgspec.json.decode(out, type=Facts)
            except (Failed, msgspec.MsgspecError) as error:
                raise BadImage(f"the file cannot be read as {format}: {error}") from error

    def check(self, file: Path, format: str) -> None:
        """Walk all tables of the image. Raises BadImage when a cluster is where none can be; leaked ones are fine."""
        if format in UNCHECKED:
            return
        with handed_over(file) as (name, fds):
            try:
                out = self.run(
                    ["check", "-U", "-f", format, "--output=json", name], fds, writes=False, fine=CHECK_ENDS
                )
                report = msgspec.json.decode(out, type=_CheckReport)
            except (Failed, msgspec.MsgspecError) as error:
                raise BadImage(f"the file cannot be checked as {format}: {error}") from error
        if report.corruptions or report.check_errors:
            count = report.corruptions + report.check_errors
            raise BadImage(f"the image is damaged or cut off ({count} errors in its tables): fetch it again")

    def blank(self, file: Path, format: DiskFormat, size_mib: int) -> None:
        """An empty disk at `file`, which must not exist. Raises CannotStart; then nothing is left."""
        self.make(file, lambda draft: ["create", "-q", "-f", format, draft, f"{size_mib}M"])

    def overlay(self, file: Path, base: Path, base_format: DiskFormat, format: DiskFormat, size_mib: int) -> None:
        """A disk at `file` that begins as `base` does: a qcow2 overlay, or a raw copy. The overlay names its base
        relative to its own folder, so that a pool can be moved. Raises CannotStart; then nothing is left."""
        if not base.is_file():
            raise CannotStart(f"{base} is not there, and {file.name} is to stand on it: import the image first")
        if format is DiskFormat.RAW:
            self._copy(file, base, base_format, size_mib)
            return
        relative = os.path.relpath(base, file.parent)
        size = f"{size_mib}M"
        # -u: the base was inspected when it was imported and is not opened again here
        self.make(
            file, lambda draft: ["create", "-q", "-f", format, "-u", "-b", relative, "-F", base_format, draft, size]
        )

    def on_backup(self, file: Path, name: str, base_format: DiskFormat, size_mib: int) -> None:
        """A qcow2 overlay at `file` on what no tool opens by that name (layers.py). Raises CannotStart; then nothing is left."""
        words = ["-u", "-b", name, "-F", base_format]
        self.make(file, lambda draft: ["create", "-q", "-f", DiskFormat.QCOW2, *words, draft, f"{size_mib}M"])

    def saved(self, file: Path, size_bytes: int, base: str, *, compressed: bool) -> None:
        """An empty qcow2 for a backup, on `base` (named from its folder; "": on nothing). Raises CannotStart; then nothing is
        left."""
        onto = ["-u", "-b", base, "-F", DiskFormat.QCOW2] if base else []
        kind = ["-o", "compression_type=zstd"] if compressed else []
        self.make(file, lambda draft: ["create", "-q", "-f", DiskFormat.QCOW2, *kind, *onto, draft, str(size_bytes)])

    def _copy(self, file: Path, base: Path, base_format: DiskFormat, size_mib: int) -> None:
        with handed_over(base) as (source, fds):
            self.make(file, lambda draft: ["convert", "-q", "-f", base_format, "-O", "raw", source, draft], fds)
        if file.stat().st_size < size_mib << 20:
            os.truncate(file, size_mib << 20)

    def convert(self, file: Path, format: DiskFormat, target: Path, target_format: DiskFormat) -> None:
        """A copy of `file` at `target`, in another format. Raises CannotStart; then nothing is left."""
        with handed_over(file) as (source, fds):
            self.make(target, lambda draft: ["convert", "-q", "-f", format, "-O", target_format, source, draft], fds)

    def flatten(self, file: Path, format: DiskFormat, target: Path) -> None:
        """A qcow2 at `target`, on nothing, of all that `file` and the files beneath it hold; they are locked meanwhile. As the user
        who owns them. Raises Locked where one is being written, BadImage; then nothing is left."""
        owner, size = file.stat().st_uid, file.stat().st_size
        limits = for_copy(_virtual_bytes(file) if format is DiskFormat.QCOW2 else size)
        # by its folder, for it names what it stands on relative to that
        with handed_over(file.parent) as (folder, fds):
            words: _Words = lambda draft: ["convert", "-q", "-f", format, "-O", "qcow2", f"{folder}/{file.name}", draft]  # noqa: E731
            try:
                self.make(target, words, fds, limits=limits, owner=owner)
            except CannotStart as error:
                kind = Locked if LOCKED in str(error) else BadImage
                raise kind(f"{file.name} cannot be read whole: {error}") from error

    def take_in(self, file: Path, format: str, target: Path, bytes_max: int) -> None:
        """A qcow2 at `target` of a disk that came in another format (qemu-img's word), of no more than so many bytes.
        Raises BadImage; then nothing is left."""
        limits = for_copy(file.stat().st_size)
        with handed_over(file) as (source, fds):
            words: _Words = lambda draft: ["convert", "-q", "-f", format, "-O", "qcow2", source, draft]  # noqa: E731
            try:
                self.make(target, words, fds, limits=limits, bytes_max=bytes_max)
            except CannotStart as error:
                raise BadImage(f"the file cannot be read whole as {format}: {error}") from error

    def resize(self, file: Path, format: DiskFormat, size_mib: int) -> None:
        """Grow a disk that no VM has open. Raises CannotStart; shrinking is refused, it would cut off data."""
        # by its folder, for an overlay names its base relative to that
        with handed_over(file.parent) as (folder, fds):
            try:
                words = ["resize", "-q", "-f", format, f"{folder}/{file.name}", f"{size_mib}M"]
                self.run(words, fds, owner=file.stat().st_uid)
            except Failed as error:
                raise CannotStart(f"{file.name} cannot be made {size_mib} MiB: {error}") from error

    def rebase(self, file: Path, base: str, base_format: DiskFormat | None) -> None:
        """The same content on another base (named from the file's folder), or on none: what lies between is copied in, and then
        the header is changed. A qcow2 that no VM has open. May be cut short, and done again. Raises DriverError."""
        with handed_over(file.parent) as (folder, fds):
            onto = ["-b", base, *(("-F", base_format) if base_format else ())]
            try:
                # else the header is written before the tables that say where the copies lie: what is cut short then reads as zeros
                words = ["rebase", "-q", "-t", "writethrough", "-f", DiskFormat.QCOW2, *onto, f"{folder}/{file.name}"]
                self.run(words, fds, owner=file.stat().st_uid, limits=for_copy(_virtual_bytes(file)))
            except Failed as error:
                raise DriverError(f"what is beneath {file.name} cannot be merged into it: {error}") from error

    def make(
        self, file: Path, words: _Words, fds: tuple[int, ...] = (), *, limits: Limits | None = None, bytes_max: int = 0,
        owner: int = NOBODY,
    ) -> None:  # fmt: skip
        """Run with the name of a draft, then put the draft, durable, in the place of `file`."""
        if file.exists():
            raise CannotStart(f"{file} is there already: a disk is never overwritten")
        fd, name = tempfile.mkstemp(prefix=f".{file.name}.", suffix=".draft", dir=file.parent)
        os.close(fd)
        draft = Path(name)
        try:
            if os.geteuid() == 0:
                os.chown(draft, owner or NOBODY, owner or NOBODY)
            with handed_over(draft) as (name, more):
                self.run(words(name), (*fds, *more), limits=limits, bytes_max=bytes_max, owner=owner)
            if os.geteuid() == 0:
                os.chown(draft, NOBODY, NOBODY)
            sync(draft)
            draft.rename(file)
            sync(file.parent)
        except Failed as error:
            raise CannotStart(f"{file.name} cannot be made: {error}") from error
        finally:
            draft.unlink(missing_ok=True)

    def run(
        self,
        words: list[str],
        fds: tuple[int, ...],
        *,
        writes: bool = True,
        fine: tuple[int, ...] = (0,),
        owner: int = NOBODY,
        limits: Limits | None = None,
        bytes_max: int = 0,
    ) -> bytes:
        """stdout. Raises Failed. owner: whom to be where we are root; root itself is never taken. bytes_max: of a file that it
        writes; 0: any."""
        limits = limits or self._limits
        bounds = [f"-t {limits.cpu_s}", f"-v {limits.memory_mib << 10}"]
        if not writes or bytes_max:
            bounds.append(f"-f {-(-(bytes_max if writes else OUTPUT_BYTES_MAX) // 512)}")
        # it waits at a gate: what a process has before it is moved is charged where it was
        script = " && ".join(["read -r _", *(f"ulimit {bound}" for bound in bounds), 'exec "$@" </dev/null'])
        user = (owner or NOBODY) if os.geteuid() == 0 else None
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            process = subprocess.Popen(
                ["/bin/sh", "-c", script, "sh", self._program, *words],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=err,
                pass_fds=fds,
                user=user,
                group=user,
                extra_groups=None if user is None else [],
                # an arena of each thread would take 64 MiB of address space, which is limited
                env={"PATH": os.defpath, "LC_ALL": "C", "MALLOC_ARENA_MAX": "1"},
                start_new_session=True,
            )
            self._stand(process.pid)
            code = self._wait(process, limits)
            if code in fine:
                return _head(out.fileno(), OUTPUT_BYTES_MAX)
            said = _head(err.fileno(), OUTPUT_BYTES_MAX)
            if bytes_max and (code == -signal.SIGXFSZ or os.strerror(errno.EFBIG).encode() in said):
                raise Failed(f"it grows to more than {bytes_max >> 20} MiB, which is not believed of a file of its size")
            raise Failed(_reason(code, said, limits))

    def _wait(self, process: subprocess.Popen[bytes], limits: Limits) -> int:
        assert process.stdin is not None
        try:
            with suppress(BrokenPipeError), process.stdin:
                process.stdin.write(b"\n")
            return process.wait(limits.wall_s)
        except subprocess.TimeoutExpired:
            raise Failed(f"it took longer than {limits.wall_s:.0f} s and was stopped") from None
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


def _virtual_bytes(file: Path) -> int:
    """Of a qcow2: what a run that fills it may copy."""
    with file.open("rb") as opened:
        return int.from_bytes(opened.read(32)[24:], "big")


@contextmanager
def handed_over(path: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The name of a file or folder for the tool, and the handles that it must inherit for that. Raises DriverError."""
    try:
        fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise DriverError(f"{path} cannot be reached: {error.strerror}") from error
    try:
        yield f"/proc/self/fd/{fd}", (fd,)
    finally:
        os.close(fd)


def _head(fd: int, bytes_max: int) -> bytes:
    return os.pread(fd, bytes_max, 0)


def _reason(code: int, err: bytes, limits: Limits) -> str:
    said = err.decode(errors="replace").strip().splitlines()
    lines = [line for line in said if UNDELETED not in line] or said
    if code < 0:
        spent = f"limits: {limits.cpu_s} s of CPU, {limits.memory_mib} MiB"
        return f"qemu-img was ended by signal {-code} ({spent})"
    return (lines[0] if lines else f"qemu-img ended with {code}")[:SENTENCE_CHARS_MAX]


def sync(path: Path) -> None:
    """Make a file's content, or a folder's list of names, survive a power cut."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
