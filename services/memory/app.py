"""memory as a service."""

from libs.common.host.service import Service
from proto.compute import NodeRemoved, NodeReported, VmFound, VmStartFailed, VmStartRequested, VmStopped
from services.memory.model import LEDGER
from services.memory.react import react

SERVICE = Service(
    "memory",
    deciders=(LEDGER,),
    follows=(NodeReported, NodeRemoved, VmStartRequested, VmStartFailed, VmStopped, VmFound),
    react=react,
)
