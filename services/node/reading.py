"""What arrives on `order.<node>`, read and held to what an agent may act upon. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

from proto.backups import SavedDisk
from proto.machine import BACKUP_NAME, FILE_NAME
from proto.node import (
    Order,
    OrderBackup,
    OrderBackupRemoval,
    OrderBackupVerify,
    OrderDisksMerge,
    OrderDisksRemoval,
    OrderVm,
)
from proto.words import fault_of

_decode = msgspec.msgpack.Decoder(Order).decode


def read_order(data: bytes) -> Order | str:
    """The order, or in one sentence why it is none. Its file names stay inside their folders, whoever sent it."""
    try:
        order = _decode(data)
    except (msgspec.DecodeError, msgspec.ValidationError) as bad:
        return f"not an order: {bad}"
    fault = ""
    if isinstance(order, OrderVm) and order.spec is not None:
        fault = fault_of(order.spec)
    elif isinstance(order, OrderDisksRemoval | OrderDisksMerge):
        fault = fault_of(order.disks)
    elif isinstance(order, OrderBackup):
        fault = fault_of(order.disks) or _fault(order)
    elif isinstance(order, OrderBackupRemoval | OrderBackupVerify):
        fault = _fault(order)
    return f"not an order: {fault}" if fault else order


def _fault(order: OrderBackup | OrderBackupRemoval | OrderBackupVerify) -> str:
    """What is wrong with its names of backups and of their files; "": nothing."""
    for what, pattern, word in _names(order):
        if re.fullmatch(pattern, word) is None:
            return f"{what} {word[:80]!r} does not match {pattern}"
    return ""


def _names(order: OrderBackup | OrderBackupRemoval | OrderBackupVerify) -> Iterator[tuple[str, str, str]]:
    """What it is, its pattern, the word."""
    saved: dict[str, tuple[SavedDisk, ...]] = {}
    match order:
        case OrderBackup(parent=parent, parents=parents):
            yield from (("backup", BACKUP_NAME, name) for name in (*parents, *([parent] if parent else [])))
        case OrderBackupRemoval(heirs=heirs, below=below):
            yield from (("backup", BACKUP_NAME, name) for name in ([below] if below else []))
            saved = heirs
        case OrderBackupVerify(backups=backups):
            saved = backups
    for name, disks in saved.items():
        yield "backup", BACKUP_NAME, name
        yield from (("file of variables", FILE_NAME, disk.vars) for disk in disks if disk.vars)
