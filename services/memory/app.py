"""memory as a service."""

from libs.common.host.service import Service
from proto.compute import NodeRemoved, NodeReported, VmFound, VmStartFailed, VmStartRequested, VmStopped
from services.memory import regions
from services.memory.model import LEDGER
from services.memory.react import react

SERVICE = Service(
    "memory",
    deciders=(LEDGER, regions.REGIONS),
    follows=(NodeReported, NodeRemoved, VmStartRequested, VmStartFailed, VmStopped, VmFound),
    react=lambda event, recorded, views: [*react(event, recorded, views), *regions.react(event)],
    views=regions.Holders,
    enrich=lambda command, views, now_us: regions.fill(command, views),
)
