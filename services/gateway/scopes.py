"""Whose an event is: the project of the object it speaks of, at the position where it lies. Pure.

A name can be used again by another project after its object was deleted, so the history of each name is kept; a name
that stays in one project costs one entry for ever.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from libs.common.messages import Recorded, decode_meta
from proto.compute import VmDefined
from proto.io import ImageImportRequested

CLUSTER = ""
"""The project of what belongs to no one: nodes, networks, capacities, the cluster itself. Every viewer sees it."""

SEVERAL = "*"
"""The project of what speaks of the VMs of several at once, as a node's plan does: only who sees all projects sees it."""

_OF_SEVERAL = (
    "ladder_climbed", "ladder_descended", "capacity_exceeded", "memory_policy_wanted", "memory_policy_dropped",
    "memory_order_reported",
)  # fmt: skip
"""events of a node's ledger that name VMs"""

_KINDS_OF_VM = ("vm", "devices", "map", "verdict", "guard", "backups")


@dataclass(slots=True)
class Scopes:
    """`project_of(recorded, event)` for any event that was applied, or lies at or before the last applied one.
    history: of each object, who has owned its name since which position."""

    history: dict[str, list[tuple[int, str]]] = field(default_factory=dict)

    def apply(self, recorded: Recorded, event: Any) -> None:
        match event:
            case VmDefined(vm=vm):
                self._enter(f"vm-{vm}", recorded)
            case ImageImportRequested(image=image):
                self._enter(f"image-{image}", recorded)

    def _enter(self, object: str, recorded: Recorded) -> None:
        project = decode_meta(recorded.meta).project
        history = self.history.setdefault(object, [])
        if not history or history[-1][1] != project:
            history.append((recorded.position, project))

    def at(self, object: str, position: int) -> str | None:
        """The project that owned `vm-NAME` or `image-NAME` at a position; None: nobody had defined it."""
        found = None
        for since, project in self.history.get(object, ()):
            if since > position:
                break
            found = project
        return found

    def project_of(self, recorded: Recorded, data: Any) -> str:
        """data: the event as a Struct or as a mapping. What speaks of a VM is its project's, in any stream."""
        kind, _, name = recorded.stream.partition("-")
        if kind in ("plan", "reserve", "wave") or (kind == "ledger" and recorded.type in _OF_SEVERAL):
            return SEVERAL
        vm = data.get("vm") if isinstance(data, dict) else getattr(data, "vm", None)
        if kind in _KINDS_OF_VM:
            vm = name
        object = f"vm-{vm}" if vm else recorded.stream
        project = self.at(object, recorded.position)
        if project is not None:
            return project
        kinds = ("node", "drain", "ledger", "cluster", "balance", "network", "pool", "lease", "ha")
        return CLUSTER if kind in kinds and not vm else decode_meta(recorded.meta).project
