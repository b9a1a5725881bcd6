"""Making swap for VMs, and unmaking it. Each step is written down (`Made`, kept by the caller) before or as it is taken, so that
whatever stops it, the next start or `leave` finds what was made and takes it away; where a step fails, all before it are undone.

    zram    a device of its own: hot_add, algorithm, size, mem_limit, mkswap, swapon
    disk    a file (or a partition that was named), a loop device, dm-crypt in plain mode with a random key that nobody keeps,
            mkswap, swapon: after a power cut nobody can read it
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path

import msgspec
from msgspec.structs import replace

from libs.memory.swap import Size
from services.node.host.swap_host import SwapHost, ToolFailed

ZRAM_CONTROL = "/sys/class/zram-control"
ALGORITHMS = ("zstd", "lz4", "lzo-rle", "lzo")
"""the first that the kernel offers: how well it compresses counts more than how fast, for what is swapped out is cold"""
PRIORITY = {"zram": 100, "disk": 10}
KEEP_FREE_MIB = 1024
"""of the file system that the swap file lies in"""
CIPHER = "aes-xts-plain64"
KEY_BYTES = 64
SECTOR = 512


class CannotMake(Exception):
    """Swap cannot be made here; the text says what is missing and what would help. Nothing is left, or the text says what."""


class Made(msgspec.Struct, frozen=True):
    """What exists of a swap. boot_id: of the boot it was made in; device: what is swapped to, once it is on.
    file, loop, mapping: of the encrypted one; zram: the number of the device, -1: none."""

    kind: str
    boot_id: str
    size: Size
    zram: int = -1
    file: str = ""
    loop: str = ""
    mapping: str = ""
    device: str = ""


type Save = Callable[[Made], None]


def make(host: SwapHost, kind: str, size: Size, boot_id: str, name: str, where: Path, save: Save) -> Made:
    """kind: `zram` or `disk`. name: of the mapping, on this host. where: the folder for the file, or a partition. save: keeps what
    is made, durably. Raises CannotMake."""
    made = Made(kind, boot_id, size)
    notes: list[Made] = [made]

    def note(now: Made) -> Made:
        notes.append(now)
        save(now)
        return now

    try:
        if kind == "zram":
            device, last = _zram(host, made, note)
        else:
            device, last = _disk(host, made, name, where, note)
        host.run("mkswap", device)
        last = note(replace(last, device=device))
        host.run("swapon", "--priority", str(PRIORITY[kind]), device)
        if not active(host, last):
            raise CannotMake(f"{device} is not among /proc/swaps after swapon said nothing against it")
    except (CannotMake, ToolFailed, OSError) as error:
        left = unmake(host, notes[-1], boot_id)
        said = f"{kind}: {_words(error)}"
        raise CannotMake(f"{said}; and was not undone: {left}" if left else said) from error
    return last


def active(host: SwapHost, made: Made) -> bool:
    """Whether that swap is on."""
    if not made.device:
        return False
    names = {made.device}
    if made.mapping:
        names |= {f"/dev/{Path(device).name}" for device in _dm(host, made.mapping)}
    return any(line.split()[0] in names for line in host.read("/proc/swaps").splitlines()[1:] if line.split())


def unmake(host: SwapHost, made: Made, boot_id: str) -> str:
    """Take away all of it that is there; said twice, it changes nothing. What could not be taken away, in a sentence; "": nothing
    is left. What lay in memory went with an earlier boot."""
    try:
        if made.boot_id == boot_id:
            if active(host, made):
                host.run("swapoff", made.device)
            if made.mapping and _dm(host, made.mapping):
                host.run("dmsetup", "remove", "--retry", made.mapping)
            for loop in _loops(host, made):
                host.run("losetup", "--detach", loop)
            if made.zram >= 0 and host.exists(f"/sys/block/zram{made.zram}"):
                host.write(f"/sys/block/zram{made.zram}/reset", "1")
                host.write(f"{ZRAM_CONTROL}/hot_remove", str(made.zram))
        if made.file:
            host.remove(made.file)
    except (ToolFailed, OSError) as error:
        return _words(error)
    return ""


def _zram(host: SwapHost, made: Made, note: Callable[[Made], Made]) -> tuple[str, Made]:
    if not host.exists(f"{ZRAM_CONTROL}/hot_add"):
        _module(host, "zram", f"{ZRAM_CONTROL}/hot_add", "or set ASV_SWAP=disk")
    try:
        number = int(host.read(f"{ZRAM_CONTROL}/hot_add"))  # reading it makes a device
    except PermissionError:
        raise CannotMake(
            "only root may make a device: run the agent as root, or let the system make one, with a mem_limit"
        ) from None
    made = note(replace(made, zram=number))
    block, device = f"/sys/block/zram{number}", f"/dev/zram{number}"
    if not host.exists(device):
        raise CannotMake(f"{device} was made and is not seen here: a container needs the host's /dev")
    offered = host.read(f"{block}/comp_algorithm").replace("[", "").replace("]", "").split()
    if best := next((a for a in ALGORITHMS if a in offered), ""):
        host.write(f"{block}/comp_algorithm", best)
    host.write(f"{block}/disksize", str(made.size.swap_mib << 20))
    host.write(f"{block}/mem_limit", str(made.size.memory_mib << 20))
    return device, made


def _disk(host: SwapHost, made: Made, name: str, where: Path, note: Callable[[Made], Made]) -> tuple[str, Made]:
    _able_to_encrypt(host)
    if str(where).startswith("/dev/"):
        _empty(host, str(where))
        below, size_mib = str(where), _sectors(host, str(where)) * SECTOR >> 20
        made = note(replace(made, size=Size(swap_mib=size_mib)))
    else:
        free_mib, file = host.free_mib(str(where)), str(where / "swap")
        if free_mib < made.size.swap_mib + KEEP_FREE_MIB:
            said = f"{made.size.swap_mib} MiB of swap are wanted and {free_mib} are free in {where}"
            raise CannotMake(f"{said}, of which {KEEP_FREE_MIB} are kept: set ASV_SWAP_MIB, or name a partition (ASV_SWAP_DEVICE)")
        made = note(replace(made, file=file))
        host.remove(file)
        host.allocate(file, made.size.swap_mib)
        below = host.run("losetup", "--find", "--show", file)
        made = note(replace(made, loop=below))
    made = note(replace(made, mapping=name))
    key = secrets.token_hex(KEY_BYTES)
    table = f"0 {_sectors(host, below)} crypt {CIPHER} {key} 0 {below} 0\n"
    host.run("dmsetup", "create", name, "--uuid", f"CRYPT-PLAIN-{name}", given=table)
    return f"/dev/mapper/{name}", made


def _able_to_encrypt(host: SwapHost) -> None:
    if not host.exists("/dev/mapper/control"):
        _module(host, "dm_mod", "/dev/mapper/control", "or set ASV_SWAP=zram; in a container: give it the host's /dev")
    targets = host.run("dmsetup", "targets")
    if not any(line.split()[0] == "crypt" for line in targets.splitlines() if line.split()):
        try:
            host.run("modprobe", "dm_crypt")
        except ToolFailed as error:
            raise CannotMake(f"this kernel has no dm-crypt ({error}): install its modules, or set ASV_SWAP=zram") from error


def _module(host: SwapHost, module: str, brings: str, otherwise: str) -> None:
    """Load a module that brings that file. Raises CannotMake."""
    said = "the module was loaded"
    try:
        host.run("modprobe", module)
    except ToolFailed as error:
        said = str(error)
    if not host.exists(brings):
        raise CannotMake(f"{brings} is not there ({said}): install the kernel's module {module}, {otherwise}")


def _empty(host: SwapHost, device: str) -> None:
    """Raises CannotMake for a partition that holds something."""
    try:
        kind = host.run("blkid", "--probe", "--output", "value", "--match-tag", "TYPE", device)
    except ToolFailed:
        return  # nothing is known of what is on it
    if kind and kind != "swap":
        raise CannotMake(f"{device} holds {kind}, which would be lost: name another, or empty this one (wipefs --all {device})")


def _sectors(host: SwapHost, device: str) -> int:
    return int(host.read(f"/sys/class/block/{Path(device).name}/size"))


def _loops(host: SwapHost, made: Made) -> list[str]:
    """Also one that was set up and not noted any more."""
    if not made.file or not host.exists(made.file):
        return []
    return [line.partition(":")[0] for line in host.run("losetup", "--associated", made.file).splitlines()]


def _dm(host: SwapHost, name: str) -> list[str]:
    """The device of the mapping, under each of its names; none: it is not there."""
    if not host.exists("/dev/mapper/control"):
        return []
    try:
        number = host.run("dmsetup", "info", "--columns", "--noheadings", "--options", "minor", name)
    except ToolFailed:
        return []
    return [f"/dev/mapper/{name}", f"/dev/dm-{number.strip()}"]


def _words(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename else (error.strerror or str(error))
    return str(error)
