"""What is done with backups, as the facts that report it."""

from __future__ import annotations

import logging

from libs.common.messages import Fact, NodeId
from proto.node import OrderBackup, OrderBackupRemoval, OrderBackupVerify
from services.node import backup_facts
from services.node.chores import BackupChore
from services.node.drivers import Driver, NotBackedUp, Verified

log = logging.getLogger(__name__)


async def fact_of_backup(driver: Driver, node: NodeId, chore: BackupChore) -> Fact:
    """Raises DriverError for what passes: it will be ordered again."""
    try:
        match chore:
            case OrderBackup():
                return backup_facts.taken(node, chore, await driver.back_up(chore))
            case OrderBackupRemoval():
                return backup_facts.removed(node, chore, await driver.remove_backup(chore))
            case OrderBackupVerify():
                return backup_facts.verified(node, chore, await driver.verify_backup(chore))
    except NotBackedUp as error:
        log.warning("%s of %s: %s", chore.backup, chore.vm, error)
        return refused(node, chore, str(error))


def refused(node: NodeId, chore: BackupChore, sentence: str) -> Fact:
    """A pool that a node does not have is what is wrong with a backup in it."""
    match chore:
        case OrderBackup():
            return backup_facts.taken(node, chore, None, sentence)
        case OrderBackupRemoval():
            return backup_facts.removed(node, chore, {}, sentence)
        case OrderBackupVerify():
            return backup_facts.verified(node, chore, Verified(damaged={chore.backup: sentence}))
