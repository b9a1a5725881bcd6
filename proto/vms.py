"""compute: what is asked of VMs (streams `vm-NAME`)."""

from __future__ import annotations

from typing import Annotated

import msgspec

from libs.common.messages import Command, Name, NodeId, Value
from proto.machine import (
    Allotment,
    DirectBoot,
    Disk,
    DiskWish,
    Firmware,
    MemoryBy,
    MemoryMib,
    Nic,
    NicWish,
    Priority,
    System,
    Taking,
    Vcpus,
)
from proto.placement import Placement

DeadlineS = Annotated[int, msgspec.Meta(ge=0, le=86_400)]


class ImageFacts(Value):
    """What compute's view knew of the images when it decided: those it has, by name, with size and boot files. firmware: what
    the first disk's image suggests. missing: images that are not there; likewise missing_networks, and then networks: the names
    of those there are. isos: images that CD drives read."""

    missing: tuple[str, ...] = ()
    missing_networks: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    sizes_mib: dict[str, int] = {}
    boot: DirectBoot | None = None
    boot_image: str = ""
    firmware: Firmware | None = None
    isos: tuple[str, ...] = ()


class DefineVm(Command):
    """Create a VM, stopped. `uuid`, `macs`, `serials` come with the command (made at the edge); image facts are filled in by
    compute's own view (`boot`, `boot_image`, `image_mib`) before it decides and are ignored from outside. firmware: what is not
    said is direct where the first image has a kernel of its own, else what that suggests, else bios."""

    vm: Name
    vcpus: Vcpus = 1
    memory_mib: MemoryMib = 256
    vcpus_max: int = 0
    memory_max_mib: int = 0
    memory_by: MemoryBy = MemoryBy.VIRTIO_MEM
    disks: tuple[DiskWish, ...] = ()
    nics: tuple[NicWish, ...] = ()
    priority: Priority = Priority.NORMAL
    allotment: Allotment = Allotment()
    uuid: str = ""
    known: ImageFacts | None = None
    firmware: Firmware | None = None
    system: System = System.LINUX


class StartVm(Command):
    """`choice` is filled in by compute's placement policy just before it decides. `node`: only there, if given. unheard: nodes that
    have not spoken since the database was restored, filled in by compute's own view; incarnation: by its host. source, recovery:
    it is the end of a recovery from a backup of `source`: it is not refused, for nobody would hear of that, but said in the log."""

    vm: Name
    node: str = ""
    source: str = ""
    recovery: str = ""
    choice: Placement | None = None
    unheard: tuple[str, ...] = ()
    incarnation: int = 1


class StopVm(Command):
    """Ask the guest to shut down; power off after deadline_s. 0: power off at once."""

    vm: Name
    deadline_s: DeadlineS = 60


class ResetVm(Command):
    vm: Name


class PauseVm(Command):
    """stilled: from a reaction to the memory ladder."""

    vm: Name
    stilled: bool = False


class ResumeVm(Command):
    vm: Name


class DeleteVm(Command):
    """unheard: as for StartVm."""

    vm: Name
    unheard: tuple[str, ...] = ()
    incarnation: int = 1


class AbandonStart(Command):
    """The database was restored while this start was being prepared: what became of it afterwards is not known, so it ends."""

    vm: Name
    generation: int
    incarnation: int = 1


class NoteMemory(Command):
    """What the memory service's ledger said to the reservation of this generation. On a denial `choice` holds the next
    placement without the nodes already tried."""

    vm: Name
    node: NodeId
    generation: int
    granted: bool
    sentence: str = ""
    choice: Placement | None = None
    incarnation: int = 1


class NoteDevices(Command):
    """What io said to the devices of this generation: granted with all of them, or denied. changed: they are
    others now, of a running VM (generation) or of one at rest (0); leaving: slots that are to be unplugged. protected: as
    MachineSpec has it, filled in by compute's own view."""

    vm: Name
    node: NodeId
    generation: int
    granted: bool
    sentence: str = ""
    disks: tuple[Disk, ...] = ()
    nics: tuple[Nic, ...] = ()
    leaving: tuple[int, ...] = ()
    changed: bool = False
    incarnation: int = 1
    taking: Taking | None = None
    protected: bool = True
