"""What is done with backups, as the facts that report it. None: a passing reason, it will be ordered again."""

from __future__ import annotations

import logging

from libs.common.messages import Fact, NodeId
from proto.backups import ReportBackup, ReportBackupRemoved, ReportBackupVerified
from proto.node import OrderBackup, OrderBackupRemoval, OrderBackupVerify
from services.node.chores import BackupChore
from services.node.drivers import Driver, NotBackedUp

log = logging.getLogger(__name__)


async def fact_of_backup(driver: Driver, node: NodeId, chore: BackupChore) -> Fact:
    """Raises DriverError for what passes."""
    match chore:
        case OrderBackup():
            return await _taken(driver, node, chore)
        case OrderBackupRemoval():
            return await _removed(driver, node, chore)
        case OrderBackupVerify():
            return await _verified(driver, node, chore)


async def _taken(driver: Driver, node: NodeId, chore: OrderBackup) -> ReportBackup:
    done, sentence = None, ""
    try:
        done = await driver.back_up(chore)
    except NotBackedUp as error:
        sentence = str(error)
        log.warning("%s of %s was not taken: %s", chore.backup, chore.vm, error)
    return ReportBackup(
        node=node, vm=chore.vm, backup=chore.backup, order_version=chore.version, order_incarnation=chore.incarnation, done=done,
        sentence=sentence,
    )  # fmt: skip


async def _removed(driver: Driver, node: NodeId, chore: OrderBackupRemoval) -> ReportBackupRemoved:
    heirs, sentence = {}, ""
    try:
        heirs = await driver.remove_backup(chore)
    except NotBackedUp as error:
        sentence = str(error)
        log.warning("%s of %s was not removed: %s", chore.backup, chore.vm, error)
    return ReportBackupRemoved(
        node=node, vm=chore.vm, backup=chore.backup, order_version=chore.version, order_incarnation=chore.incarnation, heirs=heirs,
        sentence=sentence,
    )  # fmt: skip


async def _verified(driver: Driver, node: NodeId, chore: OrderBackupVerify) -> ReportBackupVerified:
    """A pool that is not there is what is wrong with all of them."""
    try:
        found = await driver.verify_backup(chore)
        damaged, read_mib, took_ms = found.damaged, found.read_mib, found.took_ms
    except NotBackedUp as error:
        damaged, read_mib, took_ms = {chore.backup: str(error)}, 0, 0
    return ReportBackupVerified(
        node=node, vm=chore.vm, backup=chore.backup, order_version=chore.version, order_incarnation=chore.incarnation,
        damaged=damaged, read_mib=read_mib, took_ms=took_ms,
    )  # fmt: skip
