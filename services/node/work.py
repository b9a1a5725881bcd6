"""A chore done by the driver, as the fact that reports it. None: it failed for a passing reason and will be ordered again."""

from __future__ import annotations

import logging

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
from services.node.backup_work import fact_of_backup
from services.node.chores import Chore
from services.node.drivers import BadImage, Driver, DriverError

log = logging.getLogger(__name__)


async def fact_of(driver: Driver, node: NodeId, chore: Chore) -> Fact | None:
    try:
        match chore:
            case OrderDisksRemoval():
                await driver.remove_disks(chore.vm, chore.disks)
                return ReportDisksRemoved(
                    node=node, vm=chore.vm, order_version=chore.version, order_incarnation=chore.incarnation
                )
            case OrderDisksMerge():
                await driver.merge_layers(chore.vm, chore.disks)
                return ReportDisksMerged(
                    node=node, vm=chore.vm, order_version=chore.version, order_incarnation=chore.incarnation
                )
            case OrderImageImport():
                return await _import(driver, node, chore)
            case OrderImageRemoval():
                await driver.remove_image(chore.pool, chore.image)
                return ReportImageRemoved(
                    node=node, image=chore.image, order_version=chore.version, order_incarnation=chore.incarnation
                )
            case OrderBackup() | OrderBackupRemoval() | OrderBackupVerify():
                return await fact_of_backup(driver, node, chore)
    except DriverError as error:
        log.warning("%s: %s", chore, error)
        return None


async def _import(driver: Driver, node: NodeId, chore: OrderImageImport) -> Fact:
    try:
        if chore.source is not None:
            info = await driver.make_image(chore.pool, chore.image, chore.source, chore.boot)
        else:
            info = await driver.import_image(
                chore.pool, chore.image, chore.file, chore.format, chore.sha256, chore.boot, chore.disk
            )
    except BadImage as bad:
        return ReportImage(
            node=node,
            image=chore.image,
            order_version=chore.version,
            order_incarnation=chore.incarnation,
            sentence=str(bad),
        )
    return ReportImage(
        node=node, image=chore.image, order_version=chore.version, order_incarnation=chore.incarnation, info=info
    )
