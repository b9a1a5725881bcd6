"""What an agent says of a backup that it took, removed or verified. Pure."""

from __future__ import annotations

from libs.common.messages import NodeId
from proto.backups import BackupDone, ReportBackup, ReportBackupRemoved, ReportBackupVerified, SavedDisk
from proto.node import OrderBackup, OrderBackupRemoval, OrderBackupVerify
from services.node.drivers import Verified


def taken(node: NodeId, order: OrderBackup, done: BackupDone | None, sentence: str = "") -> ReportBackup:
    return ReportBackup(
        node=node, vm=order.vm, backup=order.backup, order_version=order.version, order_incarnation=order.incarnation, done=done,
        sentence=sentence,
    )  # fmt: skip


def removed(
    node: NodeId, order: OrderBackupRemoval, heirs: dict[str, tuple[SavedDisk, ...]], sentence: str = ""
) -> ReportBackupRemoved:
    return ReportBackupRemoved(
        node=node, vm=order.vm, backup=order.backup, order_version=order.version, order_incarnation=order.incarnation, heirs=heirs,
        sentence=sentence,
    )  # fmt: skip


def verified(node: NodeId, order: OrderBackupVerify, found: Verified) -> ReportBackupVerified:
    return ReportBackupVerified(
        node=node, vm=order.vm, backup=order.backup, order_version=order.version, order_incarnation=order.incarnation,
        damaged=found.damaged, read_mib=found.read_mib, took_ms=found.took_ms,
    )  # fmt: skip
