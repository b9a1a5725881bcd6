"""What lies in the guest's root file system: busybox, the guest agent and its libraries, modules, our own files."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

from infra.guest import cpio, elf, modules
from infra.guest.packages import GuestError

OWN = Path(__file__).parent / "files"
READER = Path(__file__).parent / "reader" / "init"
BUSYBOX = "bin/busybox"
AGENT = "usr/sbin/qemu-ga"
LIBRARY_FOLDERS = ("usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu", "usr/lib64", "lib64")

REQUIRED = ("virtio_pci", "virtio_console", "virtio_blk", "virtio_net")
WANTED = (
    *REQUIRED,
    *("virtio_balloon", "virtio_mem", "virtio_rng", "virtio_scsi", "virtio_mmio"),
    *("pvpanic_mmio", "pvpanic_pci", "i6300esb", "qemu_fw_cfg", "button", "evdev"),
    # ext4 asks for crc32c by its alias
    *("ext4", "crc32c_generic", "sd_mod", "nvme", "ahci", "e1000e", "e1000"),
    # CDs, and the firmware's variables
    *("sr_mod", "isofs", "efivarfs"),
    *("vmw_vsock_virtio_transport", "zram", "crc_t10dif", "crct10dif_generic", "crc64_rocksoft_generic"),
)
READ_REQUIRED = ("virtio_pci", "virtio_console", "virtio_blk", "ext4")
READ = (
    *READ_REQUIRED,
    # NTFS by ntfs-3g: not every distribution's kernel has a driver of its own
    *("crc32c_generic", "xfs", "btrfs", "fuse", "vfat", "exfat", "isofs", "dm_mod"),
    # names on FAT
    *("nls_cp437", "nls_ascii", "nls_iso8859-1", "nls_utf8"),
)
"""what the file reader mounts"""
READ_PROGRAMS = ("lvm", "ntfs-3g")
OWN_POWER_COMMANDS = ("shutdown", "poweroff", "reboot", "halt")


def entries(root: Path) -> dict[str, cpio.Entry]:
    """The whole root file system, from packages unpacked in `root`. Raises GuestError."""
    whole = dict(_busybox(root))
    whole |= _agent(root)
    whole |= _modules(root, WANTED, REQUIRED)
    whole |= {str(p.relative_to(OWN)): _own(p) for p in sorted(OWN.rglob("*")) if p.is_file()}
    whole |= {f"sbin/{name}": cpio.link("shutdown") for name in OWN_POWER_COMMANDS if name != "shutdown"}
    for name in ("proc", "sys", "run", "root", "mnt", "data", "var/log", "usr/bin"):
        whole[name] = cpio.folder()
    whole["tmp"] = cpio.folder(0o1777)
    whole["init"] = cpio.link("bin/busybox")
    whole["etc/mtab"] = cpio.link("/proc/self/mounts")
    # the kernel opens these before anything of ours runs
    whole["dev/console"] = cpio.character_device(5, 1)
    whole["dev/null"] = cpio.character_device(1, 3, 0o666)
    return whole


def reader_entries(root: Path) -> dict[str, cpio.Entry]:
    """The file reader's, which mounts what is in a backup: busybox, file systems, one script. Raises GuestError."""
    whole = dict(_busybox(root)) | _modules(root, READ, READ_REQUIRED)
    for name in READ_PROGRAMS:
        whole |= _program(root, f"sbin/{name}", tuple(f"{folder}/{name}" for folder in ("sbin", "bin", "usr/sbin", "usr/bin")))
    whole["init"] = _own(READER)
    for name in ("proc", "sys", "run", "m", "dev", "tmp"):
        whole[name] = cpio.folder()
    whole["dev/console"] = cpio.character_device(5, 1)
    whole["dev/null"] = cpio.character_device(1, 3, 0o666)
    return whole


def _own(path: Path) -> cpio.Entry:
    text = path.read_bytes()
    return cpio.file(text, executable=text.startswith(b"#!"))


def _busybox(root: Path) -> Iterator[tuple[str, cpio.Entry]]:
    program = _find(root, (BUSYBOX, f"usr/{BUSYBOX}"))
    yield BUSYBOX, cpio.file(program.read_bytes(), executable=True)
    listed = subprocess.run([str(program), "--list"], capture_output=True, text=True, check=True).stdout.split()
    for name in sorted(set(listed) - {"busybox", *OWN_POWER_COMMANDS}):
        yield f"bin/{name}", cpio.link("busybox")
    # the kernel calls this path
    yield "sbin/modprobe", cpio.link("../bin/busybox")


def _agent(root: Path) -> dict[str, cpio.Entry]:
    return _program(root, AGENT, (AGENT,))


def _program(root: Path, place: str, names: tuple[str, ...]) -> dict[str, cpio.Entry]:
    """With the libraries that it needs."""
    program = _find(root, names).read_bytes()
    whole = {place: cpio.file(program, executable=True)}
    loader = elf.interpreter(program).lstrip("/")
    queue = elf.needed(program)
    while queue:
        name = queue.pop()
        if name == Path(loader).name:
            continue
        target = f"lib/x86_64-linux-gnu/{name}"
        if target not in whole:
            library = _library(root, name)
            whole[target] = cpio.file(library, executable=True)
            queue += elf.needed(library)
    whole[loader] = cpio.file(_library(root, Path(loader).name), executable=True)
    return whole


def _library(root: Path, name: str) -> bytes:
    return _find(root, tuple(f"{folder}/{name}" for folder in LIBRARY_FOLDERS)).read_bytes()


def _find(root: Path, names: tuple[str, ...]) -> Path:
    for name in names:
        if (root / name).is_file():
            return (root / name).resolve()
    raise GuestError(f"no {names[0]} in the unpacked packages: the archive is not one this recipe knows")


def _modules(root: Path, wanted: tuple[str, ...], required: tuple[str, ...]) -> dict[str, cpio.Entry]:
    for lib in ("lib/modules", "usr/lib/modules"):
        for folder in sorted((root / lib).glob("*")):
            chosen = modules.select(folder, wanted, required)
            home = f"lib/modules/{folder.name}"
            whole = {f"{home}/{m.path}": cpio.file(m.data) for m in chosen}
            return whole | {f"{home}/{name}": cpio.file(text) for name, text in modules.tables(chosen).items()}
    raise GuestError("the kernel package holds no modules")
