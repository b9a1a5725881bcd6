"""Images of a pool: inspected as exactly the format that was said, copied (or converted) in whole or not at all.

    <pool>/incoming/<file>                     what is to be imported, with its boot files beside it
    <pool>/images/<image>/disk.<format>        read-only; with manifest.json and the boot files under their own names

What is inspected is our own copy, not the file in `incoming`, which might change meanwhile.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from proto.images import ImageFormat, ImageInfo, Suggestion
from proto.machine import DirectBoot, DiskFormat
from services.node.drivers import BadImage, DriverError
from services.node.drivers.qemu import converting, qcow2
from services.node.drivers.qemu.qemu_img import QemuImg, sync

SECTOR = 512
ISO_AT = 16 * 2048 + 1
CHUNK_BYTES = 1 << 20
BOOT_BYTES_MAX = 1 << 30
MANIFEST_BYTES_MAX = 64 << 10
NAME_BYTES_MAX = 128


class Manifest(msgspec.Struct, frozen=True):
    """manifest.json of an imported image. sha256: of the file that came; boot: the files QEMU starts directly, if any."""

    name: str
    format: DiskFormat
    size_mib: int
    sha256: str
    boot: DirectBoot | None = None
    source: ImageFormat | None = None
    suggests: Suggestion | None = None
    made_of: str = ""
    """VM/disk/file that it was made of, where it did not come in"""


class Wish(msgspec.Struct, frozen=True):
    """What is to be taken in, and as what. sha256: what it must be; disk: which of an appliance's."""

    image: str
    file: str
    format: ImageFormat
    sha256: str = ""
    boot: DirectBoot | None = None
    disk: str = ""


async def inspect(path: Path, format: ImageFormat, tool: QemuImg | None = None) -> ImageInfo:
    """What the file is, raw or qcow2, read as `format` and nothing else. Raises BadImage."""
    return await asyncio.to_thread(inspect_made, path, format.kept, tool or QemuImg())


async def import_image(
    pool_dir: Path, image: str, file: str, format: ImageFormat, sha256: str = "", boot: DirectBoot | None = None,
    disk: str = "", tool: QemuImg | None = None,
) -> ImageInfo:  # fmt: skip
    """Take `incoming/<file>` (and the boot files beside it) into the pool as `image`. sha256: what it must be, "" for any; disk:
    which of an appliance's. An image that is there already with the same content is answered as it is. Raises BadImage."""
    wish = Wish(image, file, format, sha256, boot, disk)
    return await asyncio.to_thread(_import, pool_dir, wish, tool or QemuImg())


async def remove_image(pool_dir: Path, image: str) -> None:
    """Nothing happens where there is none. Overlays on it are the caller's concern."""
    await asyncio.to_thread(_remove, pool_dir, image)


def read_manifest(pool_dir: Path, image: str) -> Manifest | None:
    """What was imported under that name; None where nothing was."""
    try:
        with (pool_dir / "images" / plain(image) / "manifest.json").open("rb") as stream:
            return msgspec.json.decode(stream.read(MANIFEST_BYTES_MAX), type=Manifest)
    except FileNotFoundError:
        return None
    except msgspec.MsgspecError as error:
        raise BadImage(
            f"the manifest of image {image!r} is damaged ({error}): remove the image and import it again"
        ) from error


def _import(pool: Path, wish: Wish, tool: QemuImg) -> ImageInfo:
    present = read_manifest(pool, wish.image)
    if present is not None:
        return _same(present, wish)
    images = pool / "images"
    images.mkdir(mode=0o755, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".importing-", dir=images) as aside:
        # a user without rights looks at the copy: see QemuImg
        Path(aside).chmod(0o755)
        made = Path(aside) / "made"
        made.mkdir(mode=0o755)
        disk = made / f"disk.{wish.format.kept}"
        came = disk if wish.format.stays else Path(aside) / "came"
        digest = copy(pool / "incoming" / plain(wish.file), came, limit=qcow2.VIRTUAL_BYTES_MAX)
        if wish.sha256 and wish.sha256 != digest:
            raise BadImage(
                f"{wish.file} has sha256 {digest}, not {wish.sha256}: it was damaged on its way, or is another file"
            )
        suggests = None if came == disk else converting.convert(came, wish.format, wish.disk, disk, tool)
        info = inspect_made(disk, wish.format.kept, tool, digest)
        if wish.format is ImageFormat.ISO:
            _check_iso(disk)
        if wish.format.value != info.format.value:
            info = msgspec.structs.replace(info, source=wish.format, suggests=suggests)
        _take_boot(pool, wish.boot, made, (disk.name, "manifest.json"))
        manifest = Manifest(wish.image, info.format, info.size_mib, digest, wish.boot, info.source, info.suggests)
        (made / "manifest.json").write_bytes(msgspec.json.format(msgspec.json.encode(manifest)) + b"\n")
        publish(made, images / plain(wish.image))
    return info


def _check_iso(disk: Path) -> None:
    with _opened(disk) as fd:
        if os.pread(fd, 5, ISO_AT) != b"CD001":
            raise BadImage("the file is no ISO 9660 image (nor a UDF one with such a bridge): name its true format")


def _take_boot(pool: Path, boot: DirectBoot | None, made: Path, taken: tuple[str, ...]) -> None:
    for name in (boot.kernel, boot.initrd) if boot is not None else ():
        copy(pool / "incoming" / plain(name, taken=taken), made / name, limit=BOOT_BYTES_MAX)


def _same(present: Manifest, wish: Wish) -> ImageInfo:
    differs = (present.source or present.format).value != wish.format.value or present.boot != wish.boot
    other = wish.disk and present.suggests is not None and present.suggests.disks[:1] != (wish.disk,)
    if differs or other or (wish.sha256 and present.sha256 != wish.sha256):
        raise BadImage(
            f"there is another image {wish.image!r} (sha256 {present.sha256}): remove it first or take another name"
        )
    return ImageInfo(
        format=present.format, size_mib=present.size_mib, sha256=present.sha256, source=present.source,
        suggests=present.suggests,
    )  # fmt: skip


def publish(made: Path, target: Path) -> None:
    for path in (*made.iterdir(), made):
        sync(path)
    try:
        made.rename(target)
    except OSError as error:
        raise DriverError(f"{target} is in the way of an import ({error.strerror}): remove it") from error
    sync(target.parent)


def _remove(pool: Path, image: str) -> None:
    folder = pool / "images" / plain(image)
    with tempfile.TemporaryDirectory(prefix=".removing-", dir=folder.parent, ignore_cleanup_errors=True) as aside:
        try:
            # first out of sight as a whole, then file by file
            folder.rename(Path(aside) / "image")
        except FileNotFoundError:
            return
        shutil.rmtree(Path(aside) / "image")


def inspect_made(path: Path, format: DiskFormat, tool: QemuImg, digest: str = "") -> ImageInfo:
    """As `inspect`, blocking. digest: the sha256 that it is known to have."""
    with _opened(path) as fd:
        file_bytes = os.fstat(fd).st_size
        if file_bytes == 0:
            raise BadImage("the file has no bytes: it was not written, fetch it again")
        start = os.pread(fd, qcow2.HEADER_BYTES, 0)
    if format is DiskFormat.RAW:
        virtual_bytes = _raw_size(file_bytes)
    else:
        virtual_bytes = qcow2.check(start, file_bytes).virtual_bytes
        _confirm(path, format, virtual_bytes, tool)
    return ImageInfo(format=format, size_mib=-(-virtual_bytes >> 20), sha256=digest or _sha256(path))


def _raw_size(file_bytes: int) -> int:
    if file_bytes % SECTOR:
        raise BadImage(
            f"the file has {file_bytes} bytes, not a multiple of {SECTOR}: a raw disk is made of whole sectors"
        )
    qcow2.check_size(file_bytes)
    return file_bytes


def _confirm(path: Path, format: DiskFormat, virtual_bytes: int, tool: QemuImg) -> None:
    """qemu-img has to agree with what we read ourselves."""
    facts = tool.info(path, format)
    if facts.backing_filename or facts.encrypted or (facts.format, facts.virtual_size) != (format, virtual_bytes):
        raise BadImage(f"the image is not what its header says; {qcow2.ALONE}")
    tool.check(path, format)


def copy(source: Path, target: Path, *, limit: int) -> str:
    """Copy, keeping holes; the sha256 of all. Raises BadImage."""
    digest = hashlib.sha256()
    with _opened(source) as fd, target.open("xb") as out:
        size = os.fstat(fd).st_size
        if size > limit:
            raise BadImage(f"{source.name} has {size} bytes; at most {limit} are accepted")
        copied = 0
        while copied < size and (chunk := os.read(fd, min(CHUNK_BYTES, size - copied))):
            digest.update(chunk)
            copied += len(chunk)
            if chunk.count(0) == len(chunk):
                out.seek(len(chunk), os.SEEK_CUR)
            else:
                out.write(chunk)
        out.truncate(copied)
    target.chmod(0o644)
    return digest.hexdigest()


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    """The plain file at `path`, for reading; links, pipes and devices are refused without waiting for them."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise BadImage(f"{path.name} is not in {path.parent.name}: put it there first") from None
    except OSError as error:
        raise BadImage(
            f"{path.name} cannot be opened ({error.strerror}): a plain file is needed, not a link"
        ) from error
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise BadImage(f"{path.name} is not a plain file")
        yield fd
    finally:
        os.close(fd)


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def plain(name: str, taken: tuple[str, ...] = ()) -> str:
    """A name that stays inside its folder. Raises BadImage."""
    if not name or name[0] == "." or "/" in name or "\0" in name or len(name) > NAME_BYTES_MAX or name in taken:
        raise BadImage(f"{name!r} is no name for a file here: letters, digits, dots, dashes, not a dot at first")
    return name
