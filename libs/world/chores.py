"""What a simulated node's agent does beside VMs: disks are removed and merged, images come and go, backups are taken."""

from __future__ import annotations

from libs.common.messages import Fact, NodeId
from proto.io import ReportDisksRemoved, ReportImage, ReportImageRemoved
from proto.node import (
    OrderBackup,
    OrderBackupRemoval,
    OrderBackupVerify,
    OrderDisksMerge,
    OrderDisksRemoval,
    OrderImageImport,
    OrderImageRemoval,
)
from proto.snapshots import ReportDisksMerged
from services.node import backup_facts
from services.node.backup_work import refused
from services.node.chores import BackupChore, Chore
from services.node.drivers import BadImage, DriverError, NotBackedUp, simbackups
from services.node.drivers.simhost import SimHost
from services.node.drivers.simpool import SimPool


def worked(chore: Chore, node: NodeId, host: SimHost, now_us: int, at_us: int) -> Fact | None:
    """now_us: the world's; at_us: the node's. What is told of it; None: it could not be done, and is tried again."""
    pool = host.pool
    try:
        match chore:
            case OrderDisksRemoval():
                pool.remove(chore.disks)
                return ReportDisksRemoved(
                    node=node, vm=chore.vm, order_version=chore.version, order_incarnation=chore.incarnation
                )
            case OrderDisksMerge():
                pool.merge_at_rest(chore.vm, chore.disks)
                return ReportDisksMerged(
                    node=node, vm=chore.vm, order_version=chore.version, order_incarnation=chore.incarnation
                )
            case OrderImageImport():
                return _image(chore, node, pool)
            case OrderImageRemoval():
                pool.remove_image(chore.pool, chore.image)
                return ReportImageRemoved(
                    node=node, image=chore.image, order_version=chore.version, order_incarnation=chore.incarnation
                )
            case OrderBackup() | OrderBackupRemoval() | OrderBackupVerify():
                return _backup(chore, node, host, now_us, at_us)
    except DriverError:
        return None


def _backup(chore: BackupChore, node: NodeId, host: SimHost, now_us: int, at_us: int) -> Fact:
    """At once. Raises DriverError."""
    try:
        match chore:
            case OrderBackup():
                return backup_facts.taken(node, chore, simbackups.take(host, chore, now_us, at_us))
            case OrderBackupRemoval():
                return backup_facts.removed(node, chore, simbackups.remove(host, chore))
            case OrderBackupVerify():
                return backup_facts.verified(node, chore, simbackups.verify(host.pool, chore))
    except NotBackedUp as error:
        return refused(node, chore, str(error))


def _image(chore: OrderImageImport, node: NodeId, pool: SimPool) -> ReportImage:
    version, incarnation = chore.version, chore.incarnation
    try:
        if chore.source is not None:
            info = pool.make_image(chore.pool, chore.image, chore.source)
        else:
            info = pool.import_image(chore.pool, chore.image, chore.file, chore.format, chore.sha256)
    except BadImage as bad:
        return ReportImage(
            node=node, image=chore.image, order_version=version, order_incarnation=incarnation, sentence=str(bad)
        )
    return ReportImage(node=node, image=chore.image, order_version=version, order_incarnation=incarnation, info=info)
