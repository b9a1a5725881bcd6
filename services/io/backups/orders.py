"""What the agents are told of a VM's backups. Pure; a part of react.py.

An order is of the version at which it was wished, not of the stream's: while a backup is taken or read the stream goes on with
recoveries, and an agent begins anew with what is ordered anew.
"""

from __future__ import annotations

from collections.abc import Sequence

from libs.common.host.service import Order
from libs.common.messages import Message, NodeId
from proto.node import OrderBackup, OrderBackupRemoval, OrderBackupVerify
from services.io.backups.chain import by_id, chain
from services.io.backups.states import Activity, Backups, Deleting, Taking, Verifying


def orders(vm: str, state: Backups, version: int) -> Sequence[Order]:
    """One for each node, as it hears of one thing of a stream at a time: what goes on, else the oldest of what is left."""
    wanted: dict[NodeId, Message] = {}
    if (doing := state.doing) is not None and (message := _of(vm, doing, state)) is not None:
        wanted[doing.node] = message
    for one in state.left:
        wanted.setdefault(one.node, OrderBackupRemoval(vm=vm, version=version, backup=one.backup, pool=one.pool))
    return [Order(node, message) for node, message in sorted(wanted.items())]


def _of(vm: str, doing: Activity, state: Backups) -> Message | None:
    known, version = by_id(state.backups), doing.asked_version
    match doing:
        case Taking(wish=wish) if doing.cancelled_version:
            return OrderBackupRemoval(vm=vm, version=doing.cancelled_version, backup=wish.backup, pool=wish.pool)
        case Taking(wish=wish):
            below = chain(state.backups, wish.parent)
            return OrderBackup(
                vm=vm, version=version, backup=wish.backup, generation=wish.generation, pool=wish.pool, disks=wish.disks,
                definition=wish.definition, parent=wish.parent, parents=tuple(one.id for one in below), freeze=wish.freeze,
                rate_mibps=wish.rate_mibps, compress=wish.compress, key=wish.key, why_full=wish.why_full,
            )  # fmt: skip
        case Deleting(backup=id) if id in known:
            heirs = {heir: known[heir].disks for heir in doing.heirs if heir in known}
            one = known[id]
            return OrderBackupRemoval(vm=vm, version=version, backup=id, pool=one.pool, heirs=heirs, below=one.parent, key=one.key)
        case Verifying(backup=id) if id in known:
            files = {one.id: one.disks for one in chain(state.backups, id)}
            return OrderBackupVerify(vm=vm, version=version, backup=id, pool=known[id].pool, backups=files)
        case _:
            return None
