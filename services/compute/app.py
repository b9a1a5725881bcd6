"""compute as a service."""

from libs.common.host.service import Service
from libs.common.registry import members
from proto.drills import DrillCleanWanted, DrillWent
from proto.guard import RestartWanted
from proto.io import (
    DevicesChanged,
    DevicesDenied,
    DevicesGranted,
    DisksRecovered,
    ImageDeleteRequested,
    ImageImported,
    NetworkEvent,
    RecoveryRequested,
)
from proto.lease import HaSet, NodeLost, NodeOffProven, NodePathsNoted, NodeReturned
from proto.memory import LedgerEvent
from proto.pools import PoolSet
from proto.vitals import VerdictReached
from services.compute import enriching, hearing, queries, react, views, weighing
from services.compute.balance.model import BALANCE
from services.compute.cluster import CLUSTER
from services.compute.drain import DRAIN
from services.compute.model import VM
from services.compute.nodes import NODE
from services.compute.plan import PLAN

SERVICE = Service(
    "compute",
    deciders=(VM, NODE, CLUSTER, PLAN, BALANCE, DRAIN),
    follows=(
        *members(LedgerEvent), *members(NetworkEvent),
        *(DevicesGranted, DevicesChanged, DevicesDenied, ImageImported, ImageDeleteRequested, PoolSet, VerdictReached),
        *(NodeLost, NodeOffProven, NodeReturned, NodePathsNoted, HaSet, RestartWanted),
        *(RecoveryRequested, DisksRecovered, DrillWent, DrillCleanWanted),
    ),
    react=react.react,
    views=views.Views,
    enrich=enriching.enrich,
    weigh=weighing.weigh,
    orders=react.orders,
    ticks=react.ticks,
    telemetry=("tel.*.beat", "tel.*.cpu", "tel.*.pools"),
    hear=hearing.hear,
    query=queries.query,
)
