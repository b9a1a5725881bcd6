"""Build the `tiny` guest: `python -m infra.guest.build DEST [--cache DIR] [--fresh]`.

DEST then holds vmlinux (PVH), vmlinuz, initrd, disk.qcow2, reader.initrd (docs/backup-files.md) and manifest.json. What DEST has is
left alone when this very recipe made it; else the image comes from the cache (by package versions and recipe), or is built aside
and renamed.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from infra.guest import cpio, rootfs, vmlinux
from infra.guest.packages import Archive, GuestError, Package, say, unpack

NAME = "tiny"
DISK_MIB = 256
TOOL_S_MAX = 300
"""seconds, for mke2fs or qemu-img; parts of one are usual"""
LABEL = "tiny-data"
KERNELS = ("linux-image-amd64", "linux-image-generic")
"""metapackages, the first known one is taken; the full kernel: the cloud one has no watchdog and no machine checks"""
PROGRAMS = ("busybox-static", "qemu-guest-agent", "lvm2", "ntfs-3g")
FOLLOWED = ("lib", "linux-image-", "linux-modules-")
CMDLINE = " ".join(
    (
        "console=ttyS0 quiet panic=0",
        # 0.4 s where instructions are emulated
        "cryptomgr.notests",
        # many emulated machines starting at once: the timer check then fails by chance
        "no_timer_check",
        # else 64 MiB of a small guest with memory head-room go to bounce buffers
        "swiotlb=512",
        "memhp_default_state=online_movable",
        # a third of all instructions up to the prompt: page tables checked for rights, files for tracing, a cipher's self-test
        # that asks for modules, services of PCIe ports (which are plugged by ACPI)
        "rodata=off initcall_blacklist=tracer_init_tracefs,crypto_kdf108_init pcie_ports=compat",
    )
)


class BootFiles(msgspec.Struct, frozen=True):
    kernel: str
    initrd: str
    cmdline: str


class FileFacts(msgspec.Struct, frozen=True):
    """size: bytes"""

    size: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True):
    """manifest.json. size_mib: the disk's virtual size; sha256: of the disk; filesystem: what it holds, if anything."""

    name: str
    format: str
    size_mib: int
    sha256: str
    boot: BootFiles
    kernel: str
    filesystem: str
    recipe: str
    packages: dict[str, str]
    files: dict[str, FileFacts]


def recipe() -> str:
    """A digest of this folder: another recipe is another image."""
    digest = hashlib.sha256()
    home = Path(__file__).parent
    for path in sorted(p for p in home.rglob("*") if p.is_file() and "__pycache__" not in p.parts):
        digest.update(f"{path.relative_to(home)}\0{path.stat().st_size}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def read_manifest(folder: Path) -> Manifest | None:
    """What lies in `folder`; None unless it is whole (all files with their sizes)."""
    try:
        manifest = msgspec.json.decode((folder / "manifest.json").read_bytes(), type=Manifest)
        sound = all((folder / name).stat().st_size == facts.size for name, facts in manifest.files.items())
    except (OSError, msgspec.MsgspecError):
        return None
    return manifest if sound else None


def build(dest: Path, cache: Path, *, fresh: bool = False) -> Manifest:
    """Make `dest` hold the image. fresh: look for newer packages even when dest is whole. Raises GuestError."""
    present = read_manifest(dest)
    if present is not None and present.recipe == recipe() and not fresh:
        say(f"{dest} is up to date (kernel {present.kernel})")
        return present
    _check_tools()
    cache.mkdir(parents=True, exist_ok=True)
    with _lock(cache):
        archive = Archive(cache)
        try:
            image = _cached(archive, cache)
        except GuestError:
            # the machine's lists may name packages that the mirror has replaced
            if not archive.refresh():
                raise
            image = _cached(archive, cache)
    manifest = read_manifest(image)
    if manifest is None:
        raise GuestError(f"{image} vanished while it was being used: say it again")
    _install(image, dest)
    say(f"{dest}: kernel {manifest.kernel}, {sum(f.size for f in manifest.files.values()) >> 20} MiB")
    return manifest


def _check_tools() -> None:
    machine = os.uname().machine
    if machine != "x86_64":
        raise GuestError(f"the tiny guest is made for x86_64, this machine is {machine}")
    if shutil.which("qemu-img") is None:
        raise GuestError("qemu-img is needed to make the guest's disk: install the package qemu-utils")


def _cached(archive: Archive, cache: Path) -> Path:
    packages = _resolve(archive)
    versions = {p.name: p.version for p in packages.values()}
    key = hashlib.sha256(msgspec.json.encode([recipe(), sorted(versions.items())])).hexdigest()[:16]
    image = cache / "images" / key
    if read_manifest(image) is None:
        files = archive.fetch(p for p in packages.values() if p.name not in KERNELS)
        image.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".building-", dir=image.parent) as aside:
            made = _make(Path(aside), files, versions)
            shutil.rmtree(image, ignore_errors=True)
            made.rename(image)
    return image


def _resolve(archive: Archive) -> dict[str, Package]:
    packages = archive.resolve((*KERNELS, *PROGRAMS), lambda name: name.startswith(FOLLOWED))
    missing = sorted(set(PROGRAMS) - packages.keys())
    kernel = next((k for k in KERNELS if k in packages), None)
    if missing or kernel is None:
        wanted = ", ".join(missing or KERNELS[:1])
        raise GuestError(f"the package archive does not offer {wanted}: check the machine's apt sources")
    return packages


def _make(aside: Path, files: list[Path], versions: dict[str, str]) -> Path:
    root, image = aside / "root", aside / "image"
    root.mkdir()
    image.mkdir()
    image.chmod(0o755)
    say(f"unpacking {len(files)} packages")
    unpack(files, root)
    kernels = sorted((root / "boot").glob("vmlinuz-*"))
    if len(kernels) != 1:
        raise GuestError(f"one kernel was expected in the kernel package, there are {len(kernels)}")
    say(f"extracting the kernel from {kernels[0].name}")
    (image / "vmlinux").write_bytes(vmlinux.extract(kernels[0].read_bytes(), kernels[0].name))
    # as the distribution made it: what firmware starts
    shutil.copy(kernels[0], image / "vmlinuz")
    say("writing the initrd and the disk")
    (image / "initrd").write_bytes(cpio.archive(rootfs.entries(root)))
    (image / "reader.initrd").write_bytes(cpio.archive(rootfs.reader_entries(root)))
    filesystem = _disk(image / "disk.qcow2", aside / "disk.raw")
    facts = {p.name: _facts(p) for p in sorted(image.iterdir())}
    manifest = Manifest(
        name=NAME,
        format="qcow2",
        size_mib=DISK_MIB,
        sha256=facts["disk.qcow2"].sha256,
        boot=BootFiles("vmlinux", "initrd", CMDLINE),
        kernel=kernels[0].name.removeprefix("vmlinuz-"),
        filesystem=filesystem,
        recipe=recipe(),
        packages=dict(sorted(versions.items())),
        files=facts,
    )
    (image / "manifest.json").write_bytes(msgspec.json.format(msgspec.json.encode(manifest)) + b"\n")
    return image


def _disk(target: Path, raw: Path) -> str:
    """An ext4 of DISK_MIB where this machine can make one, else an empty disk."""
    with raw.open("wb") as stream:
        stream.truncate(DISK_MIB << 20)
    mke2fs = shutil.which("mke2fs", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if mke2fs is not None:
        options = ("-t", "ext4", "-m", "0", "-L", LABEL, "-E", "lazy_itable_init=1,root_owner=0:0")
        _run(mke2fs, "-q", "-F", *options, str(raw))
    _run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(raw), str(target))
    return "ext4" if mke2fs is not None else ""


def _run(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=TOOL_S_MAX)
    if done.returncode != 0:
        raise GuestError(f"`{' '.join(argv)}` failed: {done.stderr.strip()}")


def _facts(path: Path) -> FileFacts:
    path.chmod(0o644)
    with path.open("rb") as stream:
        return FileFacts(path.stat().st_size, hashlib.file_digest(stream, "sha256").hexdigest())


def _install(image: Path, dest: Path) -> None:
    """Copy beside `dest`, then swap: a reader sees the old image or the new one."""
    dest.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{dest.name}-", dir=dest.parent) as aside:
        shutil.copytree(image, Path(aside) / "new")
        if dest.exists():
            dest.rename(Path(aside) / "old")
        (Path(aside) / "new").rename(dest)


@contextmanager
def _lock(cache: Path) -> Iterator[None]:
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def default_cache() -> Path:
    if os.geteuid() == 0:
        return Path("/var/cache/asv/guest")
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "asv" / "guest"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m infra.guest.build", description="Build the tiny guest into DEST.")
    parser.add_argument("dest", type=Path, metavar="DEST")
    parser.add_argument("--cache", type=Path, default=None, help="where packages and built images are kept")
    parser.add_argument("--fresh", action="store_true", help="look for newer packages even when DEST is up to date")
    options = parser.parse_args(argv)
    began = time.monotonic()
    try:
        build(options.dest.absolute(), (options.cache or default_cache()).absolute(), fresh=options.fresh)
    except (GuestError, OSError, subprocess.SubprocessError) as error:
        say(f"cannot be built: {error}")
        return 1
    say(f"done in {time.monotonic() - began:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
