"""io as a service."""

from libs.common.host.service import Service
from proto.compute import (
    NodeJoined,
    NodeRemoved,
    NodeReported,
    VmDefined,
    VmDeleted,
    VmRecoveryPrepared,
    VmRecoveryRefused,
    VmRecoveryWaits,
    VmRestartDenied,
    VmStrangerGone,
    VmStrangerSeen,
)
from proto.growth import VmHardwareSeen, VmReshaped, VmResized
from proto.guard import GuardSet
from proto.lease import NodeLost
from proto.migration import VmMigrated
from proto.plan import VmAllotted
from services.io import hearing, react, views
from services.io.backups import turns
from services.io.backups.model import BACKUPS
from services.io.images import IMAGE
from services.io.model import DEVICES
from services.io.networks import NETWORK
from services.io.phases import PHASES
from services.io.pools import POOL
from services.io.waves import knowing
from services.io.waves.model import WAVE

SERVICE = Service(
    "io",
    deciders=(DEVICES, IMAGE, NETWORK, POOL, BACKUPS, WAVE),
    follows=(
        *(NodeJoined, NodeReported, NodeRemoved, VmDefined, VmDeleted, VmMigrated, VmHardwareSeen, VmReshaped, GuardSet),
        *(VmResized, VmAllotted, NodeLost),
        *PHASES,
        *(VmStrangerSeen, VmStrangerGone),
        *(VmRecoveryPrepared, VmRecoveryRefused, VmRecoveryWaits, VmRestartDenied),
    ),
    react=react.react,
    views=views.Views,
    enrich=views.enrich,
    orders=react.orders,
    ticks=turns.ticks,
    look=react.look,
    telemetry=("tel.*.beat", "tel.*.pools", "tel.*.copies"),
    hear=hearing.hear,
    query=knowing.query,
)
