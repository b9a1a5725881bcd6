"""Snapshots of one VM: a line of layers beneath its disks. Pure; a part of model.py; why so: docs/decisions/0022-snapshots.md.

    take ──▶ taking ── seen on top of the former file ──▶ taken ── delete ──▶ deleting ── seen merged upwards ──▶ gone
               └ could not be taken: gone                   └ revert: whatever is newer is gone

One at a time is taken or deleted. At rest a snapshot is taken by its event: nobody writes, and the next start makes the new files.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from libs.common.decider import Refused
from proto.hardware import Consistency, Hardware, chain, leaving
from proto.io import (
    Change,
    ChangeKind,
    DeviceMisfit,
    DevicesChanged,
    DevicesEvent,
    NoteHardware,
    Refusal,
    SnapshotCommand,
    SnapshotDeleted,
    SnapshotDeleteRequested,
    SnapshotFailed,
    SnapshotRequested,
    SnapshotReverted,
    SnapshotTaken,
)
from proto.machine import LAYERS_MAX, Disk, DiskFormat, Layer, Taking
from proto.pools import PoolKind, short
from proto.snapshots import DeleteSnapshot, Held, ReportDisksMerged, RevertSnapshot, TakeSnapshot
from services.io.layers import files_of, marked
from services.io.states import Granted, Made, Revoked, Snapshot, SnapshotState

NO_SLOT = -1
"""a change of a snapshot is of no slot"""
ENDED = "it ended before that was seen"


def decide(command: SnapshotCommand, made: Granted | Revoked) -> Sequence[DevicesEvent]:
    """Raises Refused."""
    match command:
        case TakeSnapshot():
            return _take(command, made)
        case DeleteSnapshot():
            return _delete(command, made)
        case RevertSnapshot():
            return _revert(command, made)


# --- taking --------------------------------------------------------------------------------------------------------------


def _take(command: TakeSnapshot, made: Granted | Revoked) -> Sequence[DevicesEvent]:
    if (there := _named(made, command.name)) is not None and there.state is not SnapshotState.TAKING:
        raise Refused(Refusal.SNAPSHOT_KNOWN, f"{made.vm} has a snapshot {command.name}", "take another name")
    check_idle(made)
    _check_takable(made)
    _check_pools(command, running=isinstance(made, Granted))
    token = f"{command.incarnation}-{made.version + 1}"
    held = tuple(
        Held(name=d.name, file=d.file, size_mib=d.size_mib, format=d.format, over=over(made.vm, d, token))
        for d in written(made.disks)
    )
    generation = made.holder if isinstance(made, Granted) else 0
    asked = SnapshotRequested(
        vm=made.vm, node=made.node, generation=generation, name=command.name, token=token, freeze=command.freeze,
        disks=held, description=command.description,
    )  # fmt: skip
    tops = {each.name: each.over for each in held}
    disks = tuple(topped(disk, tops[disk.name]) if disk.name in tops else disk for disk in made.disks)
    taking = Taking(token=token, freeze=command.freeze) if generation else None
    begun: list[DevicesEvent] = [asked, _changed(made, ChangeKind.TAKE_SNAPSHOT, command.name, disks, taking)]
    if generation:
        return begun
    return [*begun, SnapshotTaken(vm=made.vm, generation=0, name=command.name, consistency=Consistency.STOPPED)]


def _check_takable(made: Granted | Revoked) -> None:
    """Raises Refused."""
    if not written(made.disks):
        raise Refused(Refusal.BAD_DEVICE, f"{made.vm} has no disks: nothing would be in a snapshot", "attach one first")
    if len(made.snapshots) >= LAYERS_MAX:
        said = f"{made.vm} has {len(made.snapshots)} snapshots; at most {LAYERS_MAX} are kept"
        raise Refused(Refusal.TOO_MANY, said, f"delete one, for instance {made.snapshots[0].name}")
    for disk in written(made.disks):
        if disk.made:
            continue
        if disk.layers:
            said = f"{made.vm} has not run since its disks were last put on a snapshot: there is nothing new in them"
        else:
            said = f"{made.vm} has not run with {disk.name} yet: there is nothing on it"
        raise Refused(Refusal.NOTHING_NEW, said, f"start {made.vm} first")


def _check_pools(command: TakeSnapshot, *, running: bool) -> None:
    """Raises Refused. What the guest writes from now on needs room beside what it has written."""
    for room in command.known.rooms:
        if room.kind in (PoolKind.NBD, PoolKind.RBD):
            said = f"pool {room.name} is {room.kind}: snapshots are files beneath a disk, which only a pool that is a folder has"
            raise Refused(Refusal.BAD_DEVICE, said, "move the VM's disks to a folder, or use the storage's own snapshots")
        if not room.id and not running:
            said = f"no node has said lately what the pool {room.name} is"
            raise Refused(Refusal.BUSY, said, "wait until a node that has it is there again")
        said, remedy = short(replace(room, rules=replace(room.rules, over=0)), 1)
        if said:
            raise Refused(Refusal.POOL_FULL, said, remedy)


def check_idle(made: Granted | Revoked) -> None:
    """Raises Refused while a snapshot is taken or deleted, or a device is on its way."""
    busy = next((s for s in made.snapshots if s.state is not SnapshotState.TAKEN), None)
    if busy is not None:
        said = f"the snapshot {busy.name} of {made.vm} is being {'taken' if busy.state is SnapshotState.TAKING else 'deleted'}"
        raise Refused(Refusal.BUSY, said, "wait until that is done")
    if isinstance(made, Granted) and (made.coming or made.leaving):
        name = [*(one.name for one in made.coming), *(one.name for one in made.leaving)][0]
        raise Refused(Refusal.BUSY, f"{name} of {made.vm} is being attached, resized or unplugged", "wait until that is done")


def written(disks: Sequence[Disk]) -> tuple[Disk, ...]:
    """Those that a guest writes: what lies in a CD drive is in no snapshot."""
    return tuple(disk for disk in disks if not disk.bus.is_cd)


def over(vm: str, disk: Disk, token: str) -> str:
    """The file that is put on top: of a name that no log, and no lost timeline of one, gives again."""
    return f"{vm}-{disk.name}.s{token}.qcow2"


def topped(disk: Disk, file: str) -> Disk:
    layers = (Layer(file=disk.file, format=disk.format), *disk.layers)
    return replace(disk, file=file, format=DiskFormat.QCOW2, layers=layers, made=False)


# --- deleting, going back ------------------------------------------------------------------------------------------------


def _delete(command: DeleteSnapshot, made: Granted | Revoked) -> Sequence[DevicesEvent]:
    snapshot = _found(made, command.name)
    if snapshot.state is SnapshotState.DELETING:
        return ()
    check_idle(made)
    files = {held.file for held in snapshot.disks}
    disks = tuple(replace(d, layers=marked(d.layers, files)) for d in made.disks)
    generation = made.holder if isinstance(made, Granted) else 0
    asked = SnapshotDeleteRequested(vm=made.vm, node=made.node, generation=generation, name=command.name)
    return [asked, _changed(made, ChangeKind.DELETE_SNAPSHOT, command.name, disks)]


def _revert(command: RevertSnapshot, made: Granted | Revoked) -> Sequence[DevicesEvent]:
    snapshot = _found(made, command.name)
    if isinstance(made, Granted):
        said = f"{made.vm} runs: its disks cannot be put back beneath it"
        raise Refused(Refusal.NOT_STOPPED, said, "stop it first (asvctl snapshot revert --stop does)")
    check_idle(made)
    newer = made.snapshots[made.snapshots.index(snapshot) + 1 :]
    lost = tuple(one.name for one in newer)
    if missing := [name for name in (made.vm, *lost) if name not in command.lose]:
        also = f" and the newer snapshots {', '.join(lost)}" if lost else ""
        said = f"going back to {snapshot.name} throws away what {made.vm} wrote since{also}"
        remedy = "name what is lost: " + " ".join(f"--lose {name}" for name in missing)
        raise Refused(Refusal.NOT_CONFIRMED, said, remedy)
    token = f"{command.incarnation}-{made.version + 1}"
    held = {each.name: each for each in snapshot.disks}
    disks = tuple(_back(made.vm, d, held[d.name], token) if d.name in held else d for d in made.disks)
    reverted = SnapshotReverted(
        vm=made.vm, node=made.node, name=snapshot.name, token=token, lost=lost,
        files=_dropped(made.disks, disks),
    )  # fmt: skip
    return [reverted, _changed(made, ChangeKind.REVERT, snapshot.name, disks)]


def _back(vm: str, disk: Disk, held: Held, token: str) -> Disk:
    at = next(i for i, layer in enumerate(disk.layers) if layer.file == held.file)
    return replace(
        disk, file=over(vm, disk, token), format=DiskFormat.QCOW2, size_mib=held.size_mib, layers=disk.layers[at:], made=False
    )


def _dropped(before: Sequence[Disk], after: Sequence[Disk]) -> tuple[str, ...]:
    """Files that disks had, and have no more."""
    kept = {one.file for disk in after for one in files_of(disk)}
    return tuple(one.file for disk in before for one in files_of(disk) if one.file not in kept)


# --- what is there -------------------------------------------------------------------------------------------------------


def _named(made: Made, name: str) -> Snapshot | None:
    return next((s for s in made.snapshots if s.name == name), None)


def _found(made: Made, name: str) -> Snapshot:
    if (found := _named(made, name)) is not None:
        return found
    has = ", ".join(s.name for s in made.snapshots) or "none"
    raise Refused(Refusal.SNAPSHOT_UNKNOWN, f"{made.vm} has no snapshot {name}; it has {has}", "name one that it has")


def _changed(
    made: Granted | Revoked, kind: ChangeKind, name: str, disks: tuple[Disk, ...], taking: Taking | None = None
) -> DevicesChanged:
    generation, going = (made.holder, made.leaving) if isinstance(made, Granted) else (0, ())
    return DevicesChanged(
        vm=made.vm, node=made.node, generation=generation, disks=disks, nics=made.nics,
        leaving=tuple(one.slot for one in going),
        change=Change(kind=kind, name=name, slot=NO_SLOT), taking=taking,
    )  # fmt: skip


# --- what is seen --------------------------------------------------------------------------------------------------------


def note(command: NoteHardware, state: Granted) -> Sequence[DevicesEvent]:
    snapshot = next((s for s in state.snapshots if s.state is not SnapshotState.TAKEN), None)
    if snapshot is None:
        return ()
    seen = command.hardware
    if snapshot.state is SnapshotState.TAKING:
        return _note_taking(state, snapshot, seen)
    if all(_chains(seen).get(d.slot) == chain(d) for d in state.disks if leaving(d)):
        return merged(state, snapshot)
    return [
        DeviceMisfit(
            vm=state.vm, generation=state.holder, name=snapshot.name, slot=NO_SLOT, sentence=m.sentence, pending=True
        )
        for m in seen.misfits
        if m.what == "snapshot" and (NO_SLOT, m.sentence) not in state.faults
    ]  # fmt: skip


def _chains(seen: Hardware) -> dict[int, tuple[str, ...]]:
    return dict(seen.chains)


def _note_taking(state: Granted, snapshot: Snapshot, seen: Hardware) -> Sequence[DevicesEvent]:
    took = seen.took if seen.took is not None and seen.took.token == snapshot.token else None
    if took is not None and took.failed:
        failed = SnapshotFailed(vm=state.vm, generation=state.holder, name=snapshot.name, sentence=took.sentence)
        tops = {each.over for each in snapshot.disks}
        disks = tuple(_untopped(disk) if disk.file in tops else disk for disk in state.disks)
        return [failed, _changed(state, ChangeKind.DROP_SNAPSHOT, snapshot.name, disks)]
    if any(_chains(seen).get(d.slot) != chain(d) for d in written(state.disks)):
        return ()
    taken = SnapshotTaken(vm=state.vm, generation=state.holder, name=snapshot.name, consistency=Consistency.CRASH)
    if took is None:
        return [replace(taken, sentence="its node was restarted meanwhile and does not know whether they stood still")]
    return [
        replace(
            taken, consistency=took.consistency, frozen_ms=took.frozen_ms, took_ms=took.took_ms, sentence=took.sentence
        )
    ]


def _untopped(disk: Disk) -> Disk:
    first, *rest = disk.layers
    return replace(disk, file=first.file, format=first.format, layers=tuple(rest), made=True)


def merged(state: Granted | Revoked, snapshot: Snapshot) -> Sequence[DevicesEvent]:
    """All that was leaving has gone up."""
    files = tuple(layer.file for d in state.disks for layer in d.layers if layer.leaving)
    disks = tuple(replace(d, layers=tuple(one for one in d.layers if not one.leaving)) for d in state.disks)
    generation = state.holder if isinstance(state, Granted) else 0
    gone = SnapshotDeleted(vm=state.vm, node=state.node, generation=generation, name=snapshot.name, files=files)
    return [gone, _changed(state, ChangeKind.MERGED, snapshot.name, disks)]


def report(fact: ReportDisksMerged, state: Made) -> Sequence[DevicesEvent]:
    """At rest."""
    stale = fact.order_incarnation != fact.incarnation or not isinstance(state, Revoked) or fact.node != state.node
    snapshot = next((s for s in state.snapshots if s.state is SnapshotState.DELETING), None)
    if stale or snapshot is None or fact.order_version < snapshot.asked_version:
        return ()
    assert isinstance(state, Revoked)
    return merged(state, snapshot)


def ended(state: Granted) -> Sequence[DevicesEvent]:
    """Its process ended while one was taken: what is in its files is what the guest had written by then."""
    snapshot = next((s for s in state.snapshots if s.state is SnapshotState.TAKING), None)
    if snapshot is None:
        return ()
    if snapshot.strict:
        said = f"{ENDED}, and so not whether its file systems stood still"
        return [SnapshotFailed(vm=state.vm, generation=state.holder, name=snapshot.name, sentence=said, unseen=True)]
    return [
        SnapshotTaken(
            vm=state.vm, generation=state.holder, name=snapshot.name, consistency=Consistency.CRASH, sentence=ENDED,
            unseen=True,
        )
    ]  # fmt: skip
