"""memory as a service."""

from libs.common.host.service import Service
from proto.compute import (
    NodeRemoved,
    NodeReported,
    VmAllotmentRequested,
    VmFound,
    VmStartFailed,
    VmStartRequested,
    VmStopped,
)
from proto.growth import VmResized, VmResizeRequested
from proto.migration import VmIncomingGone, VmMigrated, VmMigrationRequested
from proto.reserve import ReserveSet
from services.memory import queries, react, regions, views
from services.memory.model import LEDGER

SERVICE = Service(
    "memory",
    deciders=(LEDGER, regions.REGIONS),
    follows=(
        *(NodeReported, NodeRemoved, VmStartRequested, VmStartFailed, VmStopped, VmFound, VmAllotmentRequested),
        *(VmMigrationRequested, VmMigrated, VmIncomingGone, VmResizeRequested, VmResized, ReserveSet),
    ),
    react=lambda event, recorded, views: [*react.react(event, recorded, views), *regions.react(event)],
    views=views.Views,
    enrich=views.enrich,
    orders=react.orders,
    ticks=react.ticks,
    telemetry=("tel.*.memory",),
    hear=views.hear,
    query=queries.query,
)
