"""io as a service."""

from libs.common.host.service import Service
from proto.compute import (
    NodeJoined,
    NodeRemoved,
    NodeReported,
    VmDefined,
    VmDeleted,
    VmFound,
    VmPauseRequested,
    VmResumed,
    VmStarted,
    VmStartFailed,
    VmStartRequested,
    VmStopped,
    VmStopRequested,
)
from proto.growth import VmHardwareSeen
from proto.migration import VmIncomingGone, VmMigrated, VmMigrationEnded, VmMigrationRequested
from services.io import react, views
from services.io.images import IMAGE
from services.io.model import DEVICES

SERVICE = Service(
    "io",
    deciders=(DEVICES, IMAGE),
    follows=(
        *(NodeJoined, NodeReported, NodeRemoved, VmStartRequested, VmStartFailed, VmStopped, VmFound, VmDeleted),
        *(VmMigrationRequested, VmMigrated, VmMigrationEnded, VmIncomingGone),
        *(VmDefined, VmStarted, VmPauseRequested, VmResumed, VmStopRequested, VmHardwareSeen),
    ),
    react=react.react,
    views=views.Views,
    enrich=views.enrich,
    orders=react.orders,
    telemetry=("tel.*.beat",),
    hear=views.hear,
)
