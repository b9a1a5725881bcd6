"""What a running VM has, as its process and its guest say; what it is wanted to have is in MachineSpec."""

from __future__ import annotations

from enum import StrEnum

from libs.common.messages import Value
from proto.machine import CDS, Disk, MachineSpec


class Misfit(Value):
    """What of the wanted hardware could not be had. what: `vcpus`, `memory`, `disk` or `nic`, the last two with their PCI slot;
    sentence: why, and what would help. pending: the guest was asked and may still do it."""

    what: str
    sentence: str
    slot: int = -1
    pending: bool = False


class Drift(Value):
    """What a running VM's process has otherwise than its order says, by whoever's hand. what: `vcpus`, `memory`, `disk`, `nic`, or
    `device`: one that the log knows nothing of; repaired: its agent sets it right; else it stays, and the sentence says what would
    help."""

    what: str
    name: str
    sentence: str
    slot: int = -1
    repaired: bool = False


class Consistency(StrEnum):
    """What is in a snapshot: file systems that stood still; what a power cut would leave; all of a VM that did not run."""

    FILESYSTEM = "filesystem"
    CRASH = "crash"
    STOPPED = "stopped"


class Took(Value):
    """How the latest attempt to take a snapshot ended. failed: nothing was taken, and sentence says why; else sentence says why
    the guest's file systems did not stand still, where they did not. frozen_ms: how long they did; took_ms: all of it."""

    token: str
    failed: bool = False
    consistency: Consistency = Consistency.CRASH
    frozen_ms: int = 0
    took_ms: int = 0
    sentence: str = ""


class Hardware(Value):
    """vcpus: those the guest may use (online inside, where its agent answers; else plugged); plugged_vcpus: those that QEMU has
    made, which an emulated CPU keeps; memory_mib: what the guest was given; slots: the PCI slots in which a disk or NIC is, the
    ones on their way out included; disk_mib: slot and size of each disk; dimms_mib: the memory modules plugged since its birth,
    in order; media: of each CD drive its slot, and the image in it ("": none); chains: of each disk that is to have layers, its
    slot and the files that it stands on, itself first, the image left out."""

    vcpus: int
    plugged_vcpus: int
    memory_mib: int
    slots: tuple[int, ...] = ()
    disk_mib: tuple[tuple[int, int], ...] = ()
    misfits: tuple[Misfit, ...] = ()
    dimms_mib: tuple[int, ...] = ()
    media: tuple[tuple[int, str], ...] = ()
    chains: tuple[tuple[int, tuple[str, ...]], ...] = ()
    took: Took | None = None


def chain(disk: Disk) -> tuple[str, ...]:
    """The files that it is to have, once what is leaving is merged."""
    return disk.file, *(layer.file for layer in disk.layers if not layer.leaving)


def leaving(disk: Disk) -> bool:
    """Something beneath it is to be merged."""
    return any(layer.leaving for layer in disk.layers)


def standing(disk: Disk) -> bool:
    """On a backup: it is a recovered one, whose data has not come home yet."""
    return any(layer.origin is not None for layer in disk.layers)


def ordered(spec: MachineSpec) -> Hardware:
    """What a machine has that is all that it is wanted to be, as one that was just started is."""
    shape = spec.shape
    slots, disk_mib, media, chains = [nic.slot for nic in spec.nics], [], [], []
    for disk in spec.disks:
        slots.append(disk.slot)
        if disk.bus in CDS:
            media.append((disk.slot, disk.image))
        else:
            disk_mib.append((disk.slot, disk.size_mib))
        if disk.layers and not leaving(disk):
            chains.append((disk.slot, chain(disk)))
    return Hardware(
        vcpus=shape.vcpus,
        plugged_vcpus=max(shape.vcpus, spec.plugged_vcpus),
        memory_mib=shape.memory_mib,
        slots=tuple(sorted(slots)) if len(slots) > 1 else tuple(slots),
        disk_mib=tuple(sorted(disk_mib)) if len(disk_mib) > 1 else tuple(disk_mib),
        media=tuple(sorted(media)) if media else (),
        dimms_mib=spec.dimms_mib,
        chains=tuple(sorted(chains)) if chains else (),
    )
