"""A VM's disks are put on a backup, and come home. Pure; a part of model.py; why so: docs/decisions/0046-recovery.md.

    recover ──▶ new files on layers that lie in a backup and are leaving ── seen without them, or merged at rest ──▶ home
                what it had stays beside them until then

The layers are the backup's: nothing here ever has a file removed that lies in one. A VM that was found running after a restore of
the log, on disks that stand on a backup, comes home like any other.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from libs.common.decider import Refused
from libs.common.messages import NodeId, VmId
from proto.devices import Change, ChangeKind, VmPhase
from proto.hardware import chain, standing
from proto.io import (
    AttachDisk,
    DetachDisk,
    DeviceMisfit,
    DevicesChanged,
    DevicesEvent,
    DisksHome,
    DisksNotRecovered,
    DisksRecovered,
    GrantDevices,
    LimitDisk,
    NoteHardware,
    ReattachDisk,
    RecoverDisks,
    Refusal,
    ResizeDisk,
    SnapshotDeleted,
)
from proto.machine import Disk, Nic
from proto.pools import PoolKind
from proto.snapshots import DeleteSnapshot, ReportDisksMerged, RevertSnapshot, TakeSnapshot
from services.io import layers, snapshots
from services.io.layers import own_layers
from services.io.recovered import anew, in_place
from services.io.states import (
    Devices,
    Granted,
    Made,
    NoDevices,
    Recovering,
    Removing,
    Revoked,
    Snapshot,
    Unwanted,
    more_unwanted,
)

FOUND = "it was found running on the disks that it had"
STANDS = (AttachDisk, ReattachDisk, DetachDisk, ResizeDisk, LimitDisk, TakeSnapshot, DeleteSnapshot, RevertSnapshot)
"""what waits until its disks are its own"""


def recover(command: RecoverDisks, devices: Devices) -> Sequence[DevicesEvent]:
    """Never refused: who asked is a reaction, and learns of it from the log."""
    vm, source = VmId(command.vm), VmId(command.source)
    if isinstance(devices, Made) and (now := devices.recovering) and (now.source, now.recovery) == (source, command.recovery):
        return ()
    if said := _why_not(command, devices):
        return [DisksNotRecovered(vm=vm, source=source, recovery=command.recovery, sentence=said)]
    assert isinstance(devices, NoDevices | Revoked)
    try:
        return _recover(command, devices)
    except Refused as refused:
        return [DisksNotRecovered(vm=vm, source=source, recovery=command.recovery, sentence=refused.sentence)]


def _recover(command: RecoverDisks, devices: NoDevices | Revoked) -> Sequence[DevicesEvent]:
    """Raises Refused."""
    vm, token = VmId(command.vm), f"{command.incarnation}-{devices.version + 1}"
    node, former, dropped = NodeId(""), tuple[Disk, ...](), list[Snapshot]()
    if isinstance(devices, Revoked):
        snapshots.check_idle(devices)
        node, nics, disks = devices.node, devices.nics, in_place(command, devices.disks, devices.nics, token)
        files = {disk.file for disk in disks}
        former = tuple(disk for disk in devices.disks if disk.file not in files)
        kept = {one.name for one in layers.kept(devices.snapshots, disks)}
        dropped = [one for one in devices.snapshots if one.name not in kept]
    else:
        disks, nics = anew(command, devices.first, token)
    _check_pools(command, disks)
    if command.isolated:
        nics = tuple(replace(nic, link=False) for nic in nics)
    return [
        *(SnapshotDeleted(vm=vm, node=node, generation=0, name=one.name) for one in dropped),
        _changed(vm, node, 0, disks, nics, ChangeKind.RECOVER, command.recovery),
        DisksRecovered(
            vm=vm, source=VmId(command.source), recovery=command.recovery, node=command.node, start=command.start, former=former
        ),
    ]  # fmt: skip


def _check_pools(command: RecoverDisks, disks: Iterable[Disk]) -> None:
    """Raises Refused."""
    new = {disk.pool for disk in disks if disk.layers and not disk.made}
    for room in command.known.rooms:
        if room.name in new and room.kind in (PoolKind.NBD, PoolKind.RBD):
            said = f"pool {room.name} is {room.kind}: files on top of a backup are only in pools that are folders"
            raise Refused(Refusal.BAD_DEVICE, said, "recover it into a folder (--pool)")


def _why_not(command: RecoverDisks, devices: Devices) -> str:
    vm, phase = command.vm, command.known.phase
    if isinstance(devices, Removing):
        return f"disks of an earlier {vm} are still being removed by {devices.node}"
    if isinstance(devices, Granted):
        return f"{vm} runs on {devices.node}, or is being started there"
    return command.known.unsound if phase is VmPhase.STOPPED else f"{vm} is {phase}"


def check(command: object, made: Made) -> None:
    """Raises Refused: BUSY. NICs and what lies in drives are no part of a backup, and may be changed."""
    if (now := made.recovering) is None or not isinstance(command, STANDS):
        return
    raise Refused(
        Refusal.BUSY,
        f"the disks of {made.vm} still stand on a backup of {now.source}: they stay as they are until its data has come home",
        "wait until it is independent" + ("" if isinstance(made, Granted) else f"; what is missing comes while {made.vm} runs"),
    )


def unreached(disks: Iterable[Disk], command: GrantDevices) -> str:
    """Which backup the node does not reach on which one of them stands; "": none."""
    for disk in disks:
        for origin in (layer.origin for layer in disk.layers if layer.origin is not None):
            there = command.pool_ids.get(origin.pool, "")
            if origin.pool_id and there != origin.pool_id:
                stands = f"{disk.name} of {command.vm} stands on the backup {origin.backup} of {origin.vm}"
                return f"{stands} in the pool {origin.pool} {origin.pool_id}, which {command.node} does not reach"
    return ""


# --- what is seen --------------------------------------------------------------------------------------------------------


def note(command: NoteHardware, state: Granted) -> Sequence[DevicesEvent]:
    if (now := state.recovering) is None:
        return ()
    seen = dict(command.hardware.chains)
    if all(seen.get(disk.slot) == chain(disk) for disk in state.disks if standing(disk)):
        return _home(state, now)
    return [
        DeviceMisfit(
            vm=state.vm, generation=state.holder, name=now.recovery, slot=snapshots.NO_SLOT, sentence=m.sentence, pending=True
        )
        for m in command.hardware.misfits
        if m.what == "snapshot" and (snapshots.NO_SLOT, m.sentence) not in state.faults
    ]  # fmt: skip


def report(fact: ReportDisksMerged, state: Made) -> Sequence[DevicesEvent]:
    """At rest."""
    now = state.recovering
    if fact.order_incarnation != fact.incarnation or not isinstance(state, Revoked) or fact.node != state.node:
        return ()
    if now is None or fact.order_version < now.asked_version or not mergeable(state.disks):
        return ()
    return _home(state, now)


def mergeable(disks: Iterable[Disk]) -> bool:
    """At rest it comes home where a guest has run with all that stands on a backup: else a file may not be there yet."""
    found = [disk for disk in disks if standing(disk)]
    return bool(found) and all(disk.made for disk in found)


def _home(state: Granted | Revoked, now: Recovering) -> Sequence[DevicesEvent]:
    files = tuple(layer.file for disk in state.disks for layer in disk.layers if layer.origin is not None)
    disks = tuple(_alone(disk) if standing(disk) else disk for disk in state.disks)
    generation = state.holder if isinstance(state, Granted) else 0
    leaving = tuple(one.slot for one in state.leaving) if isinstance(state, Granted) else ()
    changed = _changed(state.vm, state.node, generation, disks, state.nics, ChangeKind.HOME, now.recovery, leaving)
    return [changed, DisksHome(vm=state.vm, source=now.source, recovery=now.recovery, files=files)]


def _alone(disk: Disk) -> Disk:
    return replace(disk, layers=tuple(one for one in own_layers(disk) if not one.leaving), vars_of="", home_mibps=0)


def _changed(
    vm: VmId, node: str, generation: int, disks: tuple[Disk, ...], nics: tuple[Nic, ...], kind: ChangeKind, recovery: str,
    leaving: tuple[int, ...] = (),
) -> DevicesChanged:  # fmt: skip
    return DevicesChanged(
        vm=vm, node=NodeId(node), generation=generation, disks=disks, nics=nics, leaving=leaving,
        change=Change(kind=kind, name="", slot=snapshots.NO_SLOT, recovery=recovery),
    )  # fmt: skip


# --- how it leads on -----------------------------------------------------------------------------------------------------


def evolve(state: Made, event: DisksRecovered | DisksHome, version: int) -> Made:
    if isinstance(event, DisksHome):
        return replace(state, recovering=None, unwanted=with_former(state, version))
    had = state.recovering.former if state.recovering else ()
    if event.former and state.node:
        had = (*had, Unwanted(node=state.node, disks=event.former, asked_version=version))
    now = Recovering(source=event.source, recovery=event.recovery, former=had, asked_version=version)
    names = {disk.name for disk in state.disks}
    return replace(
        state, recovering=now, snapshots=layers.kept(state.snapshots, state.disks),
        kept=tuple(disk for disk in state.kept if disk.name not in names),
    )  # fmt: skip


def with_former(state: Made, version: int) -> tuple[Unwanted, ...]:
    """`state.unwanted`, with what it had before it was recovered."""
    for one in state.recovering.former if state.recovering else ():
        state = replace(state, unwanted=more_unwanted(state, one.node, one.disks, version))
    return state.unwanted


# --- a grant -------------------------------------------------------------------------------------------------------------


def granted(made: Made | None, disks: Sequence[Disk]) -> Recovering | None:
    """What of its recovery is so with these."""
    now = made.recovering if made is not None else None
    if now is not None and not _undone(now, disks):
        return now
    origins = (layer.origin for disk in disks if disk.layers for layer in disk.layers)
    found = next((origin for origin in origins if origin is not None), None)
    return Recovering(source=VmId(found.vm)) if found is not None else None


def lost(devices: Devices, disks: Sequence[Disk]) -> Sequence[DevicesEvent]:
    """After a restore: its guest is on what it had before."""
    now = devices.recovering if isinstance(devices, Made) else None
    if now is None or not _undone(now, disks):
        return ()
    assert isinstance(devices, Made)
    return [DisksNotRecovered(vm=devices.vm, source=now.source, recovery=now.recovery, sentence=FOUND)]


def _undone(now: Recovering, disks: Sequence[Disk]) -> bool:
    had = {disk.file for one in now.former for disk in one.disks if disk.file}
    return any(disk.file in had for disk in disks)
