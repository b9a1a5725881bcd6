"""What is seen of devices ends their changes: in its slot, out of it, or not to be had. Pure; a part of model.py."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from proto.hardware import Hardware, Misfit
from proto.io import (
    Change,
    ChangeKind,
    DeviceAttached,
    DeviceDetached,
    DeviceMisfit,
    DevicesChanged,
    DevicesEvent,
    DiskResized,
    DisksHome,
    DisksRecovered,
    MediumChanged,
    NoteHardware,
)
from services.io import keeping, layers, recovering, snapshots
from services.io.states import Coming, Devices, Granted, Leaving, Made, Revoked, more_unwanted

NEXT_START = "it ended before that was seen; its next start has it"


def note(command: NoteHardware, state: Devices) -> Sequence[DevicesEvent]:
    if not isinstance(state, Granted) or command.generation != state.holder:
        return ()
    seen = command.hardware
    faults = {m.slot: m for m in seen.misfits if m.what in ("disk", "nic") and m.slot >= 0}
    events: list[DevicesEvent] = []
    undone: list[Coming] = []
    for one in state.coming:
        fault = faults.get(one.slot)
        if fault is not None and not fault.pending:
            events.append(_misfit(state, one.name, fault))
            if not one.size_mib and one.medium is None:
                undone.append(one)
        elif fault is None and (done := _arrived(state, one, seen)) is not None:
            events.append(done)
    for going in state.leaving:
        if going.slot not in seen.slots and going.slot not in faults:
            events.append(_detached(state, going))
    names = {d.slot: d.name for d in state.disks} | {n.slot: n.name for n in state.nics}
    names |= {one.slot: one.name for one in state.leaving}
    told = {e.slot for e in events if isinstance(e, DeviceMisfit)}
    for slot, fault in sorted(faults.items()):
        if slot in names and slot not in told and (slot, fault.sentence) not in state.faults:
            events.append(_misfit(state, names[slot], fault))
    left = {one.slot for one in state.leaving} - {e.slot for e in events if isinstance(e, DeviceDetached)}
    return [*events, *_undo(state, undone, left), *snapshots.note(command, state), *recovering.note(command, state)]


def _undo(state: Granted, undone: Sequence[Coming], left: set[int]) -> Sequence[DevicesEvent]:
    """Attachments that failed leave the set again; their slots, until they are seen empty."""
    events: list[DevicesEvent] = []
    disks, nics, leaving = state.disks, state.nics, sorted(left)
    for one in undone:
        disk = next((d for d in disks if d.slot == one.slot), None)
        disks = tuple(d for d in disks if d.slot != one.slot)
        nics = tuple(n for n in nics if n.slot != one.slot)
        leaving = [*leaving, one.slot]
        change = Change(
            kind=ChangeKind.UNDO, name=one.name, slot=one.slot, file=disk.file if disk else "",
            pool=disk.pool if disk else "", delete=disk is not None and not disk.made,
        )  # fmt: skip
        events.append(
            DevicesChanged(
                vm=state.vm, node=state.node, generation=state.holder, disks=disks, nics=nics,
                leaving=tuple(leaving), change=change,
            )
        )
    return events


def _arrived(state: Granted, one: Coming, seen: Hardware) -> DevicesEvent | None:
    if one.slot not in seen.slots:
        return None
    if one.medium is not None:
        return _medium(state, one) if dict(seen.media).get(one.slot, "") == one.medium else None
    if not one.size_mib:
        return DeviceAttached(vm=state.vm, generation=state.holder, name=one.name, slot=one.slot)
    size_mib = dict(seen.disk_mib).get(one.slot, 0)
    if size_mib < one.size_mib:
        return None
    return DiskResized(vm=state.vm, generation=state.holder, name=one.name, size_mib=size_mib)


def _medium(state: Granted, one: Coming, sentence: str = "") -> MediumChanged:
    image = one.medium or ""
    return MediumChanged(vm=state.vm, generation=state.holder, name=one.name, slot=one.slot, image=image, sentence=sentence)


def _detached(state: Granted, going: Leaving) -> DeviceDetached:
    file = going.disk.file if going.disk is not None else ""
    return DeviceDetached(
        vm=state.vm, generation=state.holder, name=going.name, slot=going.slot, file=file, delete=going.delete
    )


def _misfit(state: Granted, name: str, fault: Misfit) -> DeviceMisfit:
    return DeviceMisfit(
        vm=state.vm, generation=state.holder, name=name, slot=fault.slot, sentence=fault.sentence, pending=fault.pending
    )


def ended(state: Granted) -> Sequence[DevicesEvent]:
    """No process is left: what was leaving is gone, what was coming is there at the next start."""
    gone: list[DevicesEvent] = [_detached(state, going) for going in state.leaving]
    for one in state.coming:
        if one.medium is not None:
            gone.append(_medium(state, one, NEXT_START))
        elif one.size_mib:
            gone.append(DiskResized(vm=state.vm, generation=state.holder, name=one.name, size_mib=one.size_mib))
        else:
            gone.append(
                DeviceAttached(
                    vm=state.vm, generation=state.holder, name=one.name, slot=one.slot, sentence=NEXT_START
                )
            )
    return [*gone, *snapshots.ended(state)]


# --- how it leads on -----------------------------------------------------------------------------------------------------


def evolve(state: Made, event: DevicesEvent, version: int) -> Made:
    match event:
        case DevicesChanged():
            return _evolve_changed(state, event, version)
        case DeviceDetached(slot=slot) if isinstance(state, Granted):
            going = next((one for one in state.leaving if one.slot == slot), None)
            after = replace(state, leaving=tuple(one for one in state.leaving if one.slot != slot))
            after = replace(after, faults=_without(state, slot))
            if going is None or going.disk is None:
                return after
            if not going.delete:
                return replace(after, kept=keeping.left(after.kept, going.disk))
            return replace(after, unwanted=more_unwanted(state, state.node, (going.disk,), version))
        case DeviceAttached(slot=slot) if isinstance(state, Granted):
            made = not event.sentence
            disks = tuple(replace(d, made=not d.bus.is_cd) if made and d.slot == slot else d for d in state.disks)
            return replace(state, coming=tuple(one for one in state.coming if one.slot != slot), disks=disks)
        case DiskResized(name=name) | MediumChanged(name=name) if isinstance(state, Granted):
            return replace(state, coming=tuple(one for one in state.coming if one.name != name))
        case DeviceMisfit(slot=slot, sentence=said, pending=pending) if isinstance(state, Granted):
            coming = state.coming if pending else tuple(one for one in state.coming if one.slot != slot)
            return replace(state, coming=coming, faults=(*_without(state, slot), (slot, said)))
        case DisksRecovered() | DisksHome():
            return recovering.evolve(state, event, version)
        case _:
            return layers.evolve(state, event, version)


def _without(state: Granted, slot: int) -> tuple[tuple[int, str], ...]:
    return tuple(fault for fault in state.faults if fault[0] != slot)


def _evolve_changed(state: Made, event: DevicesChanged, version: int) -> Made:
    change = event.change
    old = next((d for d in state.disks if d.slot == change.slot and d.name == change.name), None)
    after: Made = replace(
        state,
        snapshots=layers.without(state.snapshots, event.disks),
        kept=keeping.without(state.kept, event.disks),
        disks=event.disks,
        nics=event.nics,
        disks_made=state.disks_made + (change.kind is ChangeKind.ATTACH_DISK),
        nics_made=state.nics_made + (change.kind is ChangeKind.ATTACH_NIC),
    )
    removes = change.kind in (ChangeKind.DETACH_DISK, ChangeKind.DETACH_NIC, ChangeKind.UNDO)
    if isinstance(after, Granted):
        if removes:
            going = Leaving(name=change.name, slot=change.slot, disk=old, delete=change.delete)
            return replace(after, leaving=(*after.leaving, going))
        if change.kind in (ChangeKind.ATTACH_DISK, ChangeKind.ATTACH_NIC):
            return replace(after, coming=(*after.coming, Coming(name=change.name, slot=change.slot)))
        if change.kind is ChangeKind.SET_MEDIUM:
            medium = next(d.image for d in event.disks if d.name == change.name)
            rest = tuple(one for one in after.coming if one.name != change.name)
            return replace(after, coming=(*rest, Coming(name=change.name, slot=change.slot, medium=medium)))
        if change.kind is ChangeKind.RESIZE_DISK:
            size_mib = next(d.size_mib for d in event.disks if d.name == change.name)
            return replace(after, coming=(*after.coming, Coming(name=change.name, slot=change.slot, size_mib=size_mib)))
        return after
    if removes and not change.delete:
        return replace(after, kept=keeping.left(after.kept, old))
    if removes and old is not None and isinstance(after, Revoked) and state.node:
        return replace(after, unwanted=more_unwanted(state, state.node, (old,), version))
    return after
