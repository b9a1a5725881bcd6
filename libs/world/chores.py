"""What a simulated node's agent does beside VMs: disks are removed and merged, images come and go."""

from __future__ import annotations

from libs.common.messages import Fact, NodeId
from proto.io import ReportDisksRemoved, ReportImage, ReportImageRemoved
from proto.node import OrderDisksMerge, OrderDisksRemoval, OrderImageImport, OrderImageRemoval
from proto.snapshots import ReportDisksMerged
from services.node.chores import Chore
from services.node.drivers import BadImage, DriverError
from services.node.drivers.simpool import SimPool


def worked(chore: Chore, node: NodeId, pool: SimPool) -> Fact | None:
    """What is told of it; None: it could not be done, and is tried again."""
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
    except DriverError:
        return None


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
