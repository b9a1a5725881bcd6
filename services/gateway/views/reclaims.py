"""Where in the log a node's memory story lies, and what of it touched which VM: these events lie in the node's stream, and `why`
of a VM would have to read all of it. Positions only, the newest. Pure."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, field
from typing import Any

from libs.common.messages import Recorded
from proto.compute import NodeRemoved, VmDeleted
from proto.memory import MemoryOrderReported
from services.gateway.reclaim import STORY, touched

OF_VM_MAX = 32
OF_NODE_MAX = 64
HEARD = frozenset({VmDeleted, NodeRemoved, *STORY})


@dataclass(slots=True)
class ReclaimsView:
    """vms, nodes: by name, positions in order; a name that was deleted has none. faulted: by node, of whom its last report
    of a memory order spoke: the next one is about them, too."""

    vms: dict[str, list[int]] = field(default_factory=dict)
    nodes: dict[str, list[int]] = field(default_factory=dict)
    faulted: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def apply(self, recorded: Recorded, event: Any, known: Container[str]) -> None:
        """known: the names of VMs that exist."""
        if type(event) not in HEARD:
            return
        match event:
            case VmDeleted(vm=vm):
                self.vms.pop(vm, None)
            case NodeRemoved(node=node):
                self.nodes.pop(node, None)
                self.faulted.pop(node, None)
            case _ if isinstance(event, STORY):
                self._note(recorded.position, event, known)

    def _note(self, position: int, event: Any, known: Container[str]) -> None:
        vms = touched(event)
        if isinstance(event, MemoryOrderReported):
            before, self.faulted[event.node] = self.faulted.get(event.node, ()), vms
            vms = tuple(dict.fromkeys((*vms, *before)))
        for vm in (vm for vm in vms if vm in known):
            self.vms[vm] = [*self.vms.get(vm, ())[1 - OF_VM_MAX :], position]
        self.nodes[event.node] = [*self.nodes.get(event.node, ())[1 - OF_NODE_MAX :], position]
