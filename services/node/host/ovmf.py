"""UEFI firmware on this machine: OVMF, where a distribution's package puts it."""

from __future__ import annotations

from pathlib import Path

import msgspec

PLACES = (
    ("usr/share/OVMF/OVMF_CODE_4M.fd", "usr/share/OVMF/OVMF_VARS_4M.fd"),
    ("usr/share/edk2/ovmf/OVMF_CODE.fd", "usr/share/edk2/ovmf/OVMF_VARS.fd"),
    ("usr/share/edk2/x64/OVMF_CODE.4m.fd", "usr/share/edk2/x64/OVMF_VARS.4m.fd"),
    ("usr/share/qemu/ovmf-x86_64-4m-code.bin", "usr/share/qemu/ovmf-x86_64-4m-vars.bin"),
    ("usr/share/qemu/edk2-x86_64-code.fd", "usr/share/qemu/edk2-i386-vars.fd"),
    ("usr/share/OVMF/OVMF_CODE.fd", "usr/share/OVMF/OVMF_VARS.fd"),
)
"""Debian, Fedora, Arch, SUSE, QEMU's own, older ones: code and template of the variables, without secure boot"""
BYTES_MAX = 64 << 20


class Ovmf(msgspec.Struct, frozen=True):
    """code: mapped read-only; template: what a VM's variables begin as; bytes: how large a store is."""

    code: Path
    template: Path
    bytes: int


def find(root: Path = Path("/")) -> Ovmf | None:
    """The first that is there whole."""
    for code, template in PLACES:
        try:
            sizes = ((root / code).stat().st_size, (root / template).stat().st_size)
        except OSError:
            continue
        if all(0 < size <= BYTES_MAX for size in sizes):
            return Ovmf(root / code, root / template, sizes[1])
    return None
