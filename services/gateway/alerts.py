"""What an operator is to look at now, with what would help. Pure: made of the views, nothing of it is recorded anew."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from proto.space import said
from services.gateway.model import ReadModel

ALERTS_MAX = 1000


class Alert(msgspec.Struct):
    """kind: `out-of-space`. object: what it is about, as `vm/web-1`. since_us: microseconds since the epoch."""

    kind: str
    object: str
    since_us: int
    sentence: str
    remedy: str


def alerts(model: ReadModel, sees: Callable[[str], bool]) -> list[Alert]:
    """The oldest first; sees: whether objects of a project are told."""
    found = sorted(_out_of_space(model, sees), key=lambda alert: (alert.since_us, alert.object))
    return found[:ALERTS_MAX]


def _out_of_space(model: ReadModel, sees: Callable[[str], bool]) -> Iterator[Alert]:
    for vm in model.vms.all.values():
        if vm.full and sees(vm.project):
            pools = ", ".join(sorted({disk.pool for disk in vm.full}))
            yield Alert(
                kind="out-of-space",
                object=f"vm/{vm.name}",
                since_us=vm.full_us,
                sentence=f"{vm.name} on {vm.node} stands still: {said(vm.full)}",
                remedy=f"free space in pool {pools}, or make it larger; the VM loses nothing and goes on by itself",
            )
