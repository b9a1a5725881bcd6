"""The snapshots of one VM, as events and files lead on. Pure; a part of model.py, as snapshots.py, which decides."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from msgspec.structs import replace

from libs.common.messages import VmId
from proto.io import (
    DevicesEvent,
    SnapshotDeleted,
    SnapshotDeleteRequested,
    SnapshotFailed,
    SnapshotFound,
    SnapshotRequested,
    SnapshotReverted,
    SnapshotTaken,
)
from proto.machine import Disk, Freeze, Layer
from proto.snapshots import Held
from services.io.states import Made, Snapshot, SnapshotState, more_unwanted

_TOKEN = re.compile(r"\.s([0-9]+-[0-9]+)\.qcow2$")


def evolve(state: Made, event: DevicesEvent, version: int) -> Made:
    match event:
        case SnapshotRequested():
            new = Snapshot(
                name=event.name, token=event.token, disks=event.disks, state=SnapshotState.TAKING,
                strict=event.freeze is Freeze.REQUIRE,
            )  # fmt: skip
            return replace(state, snapshots=(*state.snapshots, new))
        case SnapshotTaken(name=name):
            disks = tuple(_as_seen(d, not event.unseen) if event.generation else d for d in state.disks)
            return replace(_turned(state, name, SnapshotState.TAKEN, 0), disks=disks)
        case SnapshotFailed(name=name, unseen=True):
            held = {each.file for s in state.snapshots if s.name == name for each in s.disks}
            disks = tuple(replace(d, layers=marked(d.layers, held)) for d in state.disks)
            return replace(_turned(state, name, SnapshotState.DELETING, version), disks=disks)
        case SnapshotFailed(name=name):
            files = tuple(each.over for s in state.snapshots if s.name == name for each in s.disks)
            return _less(state, name, files, state.node, version)
        case SnapshotDeleteRequested(name=name):
            return _turned(state, name, SnapshotState.DELETING, version)
        case SnapshotDeleted(name=name):
            return _less(state, name, event.files, event.node, version)
        case SnapshotReverted():
            others = tuple(s for s in state.snapshots if s.name not in event.lost)
            unwanted = more_unwanted(state, event.node, _alone(state.disks, event.files), version)
            return replace(state, snapshots=others, unwanted=unwanted)
        case SnapshotFound():
            return replace(state, snapshots=_with(state, event))
        case _:
            return state


def _as_seen(disk: Disk, seen: bool) -> Disk:
    """One that the process did not live to show may not have its new file yet: its next start makes it."""
    return disk if disk.bus.is_cd else replace(disk, made=seen)


def _turned(state: Made, name: str, to: SnapshotState, version: int) -> Made:
    turned = (replace(s, state=to, asked_version=version) if s.name == name else s for s in state.snapshots)
    return replace(state, snapshots=tuple(turned))


def _less(state: Made, name: str, files: Sequence[str], node: str, version: int) -> Made:
    others = tuple(s for s in state.snapshots if s.name != name)
    return replace(state, snapshots=others, unwanted=more_unwanted(state, node, _alone(state.disks, files), version))


def files_of(disk: Disk) -> Iterator[Disk]:
    """Each of its files as a disk that has no other; the firmware's variables are no part of a snapshot."""
    if disk.file and not disk.bus.is_cd:
        yield replace(disk, layers=(), vars="")
    for layer in own_layers(disk):
        yield replace(disk, file=layer.file, format=layer.format, layers=(), vars="")


def own_layers(disk: Disk) -> tuple[Layer, ...]:
    """Those that lie beside it; the others are a backup's."""
    return tuple(layer for layer in disk.layers if layer.origin is None)


def alone(disk: Disk) -> Disk:
    """It and what is its own beneath it."""
    return replace(disk, layers=own_layers(disk)) if disk.layers else disk


def _alone(disks: Sequence[Disk], files: Sequence[str]) -> tuple[Disk, ...]:
    return tuple(one for disk in disks for one in files_of(disk) if one.file in files)


def marked(layers: tuple[Layer, ...], files: set[str]) -> tuple[Layer, ...]:
    """Those files are leaving."""
    return tuple(replace(layer, leaving=layer.leaving or layer.file in files) for layer in layers)


def without(snapshots: tuple[Snapshot, ...], disks: Sequence[Disk]) -> tuple[Snapshot, ...]:
    """A disk that the VM has no more is in no snapshot any more."""
    names = {disk.name for disk in disks}
    if all(held.name in names for s in snapshots for held in s.disks):
        return snapshots
    less = (replace(s, disks=tuple(held for held in s.disks if held.name in names)) for s in snapshots)
    return tuple(s for s in less if s.disks)


# --- after a restore -----------------------------------------------------------------------------------------------------


def kept(known: tuple[Snapshot, ...], disks: Sequence[Disk]) -> tuple[Snapshot, ...]:
    """Those of which the layers are still beneath these disks."""
    layers = {layer.file: layer for disk in disks for layer in disk.layers}
    return tuple(s for snapshot in known if (s := _there(snapshot, layers)) is not None)


def _there(snapshot: Snapshot, layers: dict[str, Layer]) -> Snapshot | None:
    held = tuple(each for each in snapshot.disks if each.file in layers)
    if not held:
        return None
    going = any(layers[each.file].leaving for each in held)
    return replace(snapshot, disks=held, state=SnapshotState.DELETING if going else SnapshotState.TAKEN)


def lost(vm: VmId, known: tuple[Snapshot, ...], disks: Sequence[Disk]) -> tuple[SnapshotFound, ...]:
    """Those that the log has lost, as the files show them, under names of our own."""
    named = {held.file for s in kept(known, disks) for held in s.disks}
    found: dict[str, list[Held]] = {}
    for disk in disks:
        above = disk.file
        for layer in disk.layers:
            if layer.file not in named and (token := _TOKEN.search(above)):
                held = Held(name=disk.name, file=layer.file, size_mib=disk.size_mib, format=layer.format, over=above)
                found.setdefault(token[1], []).append(held)
            above = layer.file
    going = {layer.file for disk in disks for layer in disk.layers if layer.leaving}
    return tuple(
        SnapshotFound(
            vm=vm, name=f"found-{token}", token=token, disks=tuple(helds), leaving=any(h.file in going for h in helds)
        )
        for token, helds in found.items()
    )  # fmt: skip


def _with(state: Made, event: SnapshotFound) -> tuple[Snapshot, ...]:
    """In the order of the layers."""
    turned = SnapshotState.DELETING if event.leaving else SnapshotState.TAKEN
    new = Snapshot(name=event.name, token=event.token, disks=event.disks, state=turned)
    order = [layer.file for disk in state.disks for layer in reversed(disk.layers)]
    return tuple(sorted((*state.snapshots, new), key=lambda s: order.index(s.disks[0].file)))
