"""The devices of one VM (stream `devices-VM`). Pure.

              first grant makes them            revoke
    NoDevices ───────────────────▶ Granted ◀──────────────▶ Revoked
       ▲                              │       later grant      │
       │          disks seen removed  └──────── remove ────────┤
       └───────────────────────────────── Removing ◀───────────┘

Names, serials, MACs and slots are derived from the VM's name and the index, so that the same decision makes the same devices.
The granted generation only rises, over removal too; only a VM that is found running after a restore has its own granted
again. While a VM migrates, the grant is the incoming generation's; if that comes to nothing, it is returned to the source. A denial
is an event: the asker is a reaction, and compute learns of it
from the log. A grant that is there already is not written again, for compute has read the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never, get_args

from msgspec.structs import replace

from libs.common.decider import Decider, Refused
from libs.common.messages import NodeId, Value, VmId
from proto.io import (
    DevicesCommand,
    DevicesDenied,
    DevicesEvent,
    DevicesGranted,
    DevicesRemoved,
    DevicesReturned,
    DevicesRevoked,
    DisksRemovalRequested,
    GrantDevices,
    Refusal,
    RemoveDevices,
    ReportDisksRemoved,
    ReturnDevices,
    RevokeDevices,
)
from proto.machine import Disk, Nic
from services.io.devices import make_disks, make_nics


class State(Value, tag=True, kw_only=True):
    """generation: the highest ever granted for this name; version: events folded so far."""

    generation: int = 0
    version: int = 0


class NoDevices(State, kw_only=True):
    """Never granted, or removed."""


class Granted(State, kw_only=True):
    """This generation on this node may write. returned_to: the older one that may, once a newer has given them back."""

    vm: VmId
    node: NodeId
    returned_to: int = 0
    disks: tuple[Disk, ...] = ()
    nics: tuple[Nic, ...] = ()

    @property
    def holder(self) -> int:
        return self.returned_to or self.generation


class Revoked(State, kw_only=True):
    """The devices are there and nobody writes. node: who wrote last."""

    vm: VmId
    node: NodeId
    disks: tuple[Disk, ...] = ()
    nics: tuple[Nic, ...] = ()


class Removing(State, kw_only=True):
    """The agent of `node` is ordered to remove the disks; asked_version: the stream's version at that wish."""

    vm: VmId
    node: NodeId
    disks: tuple[Disk, ...]
    asked_version: int


Devices = NoDevices | Granted | Revoked | Removing


def decide(command: DevicesCommand, devices: Devices) -> Sequence[DevicesEvent]:
    match command:
        case GrantDevices():
            return _grant(command, devices)
        case RevokeDevices():
            if not isinstance(devices, Granted) or command.generation < devices.holder:
                return ()
            return [DevicesRevoked(vm=devices.vm, generation=command.generation)]
        case ReturnDevices():
            return _return(command, devices)
        case RemoveDevices():
            return _remove(command, devices)
        case ReportDisksRemoved():
            return _report(command, devices)


def _grant(command: GrantDevices, devices: Devices) -> Sequence[DevicesEvent]:
    vm, node, generation = VmId(command.vm), command.node, command.generation
    again = command.running and isinstance(devices, Revoked) and generation == devices.generation
    if generation <= devices.generation and not again:
        return ()
    if isinstance(devices, Removing):
        said = f"disks of an earlier {vm} are still being removed by {devices.node}"
        return [DevicesDenied(vm=vm, node=node, generation=generation, sentence=said)]
    missing = sorted({d.image for d in command.disks if d.image and d.image not in command.sizes_mib})
    if missing:
        said = f"the image {', '.join(missing)}, on which a disk of {vm} stands, is not there (any more)"
        return [DevicesDenied(vm=vm, node=node, generation=generation, sentence=said)]
    if isinstance(devices, NoDevices):
        disks = make_disks(vm, command.disks, command.sizes_mib)
        nics = make_nics(vm, command.nics, slot_first=len(disks))
    else:
        disks, nics = devices.disks, devices.nics
    return [DevicesGranted(vm=vm, node=node, generation=generation, disks=disks, nics=nics)]


def _return(command: ReturnDevices, devices: Devices) -> Sequence[DevicesEvent]:
    if not isinstance(devices, Granted) or command.generation != devices.holder:
        return ()
    source, holder = command.source, command.source_generation
    return [DevicesReturned(vm=devices.vm, node=source, generation=command.generation, holder=holder)]


def _remove(command: RemoveDevices, devices: Devices) -> Sequence[DevicesEvent]:
    match devices:
        case NoDevices() | Removing():
            return ()
        case Granted() | Revoked():
            events: list[DevicesEvent] = []
            if isinstance(devices, Granted):
                events.append(DevicesRevoked(vm=devices.vm, generation=devices.generation))
            node = NodeId(command.node) if command.node else devices.node
            asked = DisksRemovalRequested(vm=devices.vm, node=node, disks=devices.disks)
            return [*events, asked if devices.disks else DevicesRemoved(vm=devices.vm)]
        case _:
            assert_never(devices)


def _report(fact: ReportDisksRemoved, devices: Devices) -> Sequence[DevicesEvent]:
    if not isinstance(devices, Removing) or fact.order_version < devices.asked_version:
        return ()
    if fact.order_incarnation != fact.incarnation:
        return ()
    if fact.node != devices.node:
        raise Refused(
            Refusal.NOT_PERMITTED,
            f"{fact.node} reports the disks of {fact.vm} removed; the log names {devices.node}",
            "report only what was ordered of this node",
        )
    return [DevicesRemoved(vm=devices.vm)]


def evolve(devices: Devices, event: DevicesEvent) -> Devices:
    """Never refuses, never raises: an event that does not fit the state (there is none) is only counted."""
    version = devices.version + 1
    match event:
        case DevicesGranted():
            return Granted(
                generation=max(devices.generation, event.generation),
                version=version,
                vm=event.vm,
                node=event.node,
                disks=event.disks,
                nics=event.nics,
            )
        case DevicesRemoved():
            return NoDevices(generation=devices.generation, version=version)
        case DisksRemovalRequested():
            return Removing(
                generation=devices.generation,
                version=version,
                vm=event.vm,
                node=event.node,
                disks=event.disks,
                asked_version=version,
            )
        case DevicesReturned() if isinstance(devices, Granted):
            return replace(devices, node=event.node, returned_to=event.holder, version=version)
        case DevicesRevoked() if isinstance(devices, Granted):
            return Revoked(
                generation=max(devices.generation, event.generation),
                version=version,
                vm=devices.vm,
                node=devices.node,
                disks=devices.disks,
                nics=devices.nics,
            )
        case _:
            return replace(devices, version=version)


DEVICES: Decider[DevicesCommand, Devices, DevicesEvent] = Decider(
    kind="devices",
    commands=get_args(DevicesCommand),
    events=get_args(DevicesEvent),
    state=Devices,
    key=lambda command: command.vm,
    initial=NoDevices(),
    decide=decide,
    evolve=evolve,
)
