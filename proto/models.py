"""Device models: what the guest sees, what it costs, when to choose it. The one table; drivers, refusals and `vm io` read it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from libs.common.messages import Value
from proto.machine import DiskBus, NicModel


class Model(Value):
    """driver: QEMU's name of it. paravirtual: the guest knows that it is a VM, and speaks to QEMU by shared rings; else a real
    device is emulated, and each access to its registers leaves the guest. grows: a larger size is seen while the guest runs.
    moves: QEMU can send its state, so that a running VM which has it can go to another node. waits_for_space: a write that its pool
    has no room for stops the guest until it has; else the guest is told of an error. plugs: it comes and goes while it
    runs."""

    driver: str
    kind: str
    paravirtual: bool
    emulates: str
    costs: str
    choose: str
    grows: bool = True
    moves: bool = True
    waits_for_space: bool = True
    plugs: bool = True


DISKS: Final[Mapping[DiskBus, Model]] = {
    DiskBus.VIRTIO_BLK: Model(
        driver="virtio-blk-pci",
        kind="disk",
        paravirtual=True,
        emulates="nothing that exists: a queue of requests in shared memory",
        costs="one exit per batch of requests, one PCI slot per disk",
        choose="always, unless the guest has no driver for it",
    ),
    DiskBus.VIRTIO_SCSI: Model(
        driver="scsi-hd",
        kind="disk",
        paravirtual=True,
        emulates="a SCSI disk behind a paravirtual controller of its own",
        costs="as virtio-blk, and the SCSI commands are parsed; one PCI slot per disk",
        choose="for guests that want SCSI commands (reservations, unmap on old kernels) or names like sda",
    ),
    DiskBus.NVME: Model(
        driver="nvme",
        kind="disk",
        paravirtual=False,
        emulates="an NVMe controller with one namespace",
        costs="an exit for each doorbell, one PCI slot per disk; a running VM that has it stays on its node",
        choose="for guests with an NVMe driver and none for virtio (most installers)",
        grows=False,
        moves=False,
        waits_for_space=False,
    ),
    DiskBus.CDROM: Model(
        driver="scsi-cd",
        kind="cd",
        paravirtual=True,
        emulates="a SCSI CD drive behind a paravirtual controller of its own",
        costs="one PCI slot per drive",
        choose="always, unless the guest (a Windows installer) has no driver for virtio-scsi",
        grows=False,
        waits_for_space=False,
    ),
    DiskBus.SATA_CDROM: Model(
        driver="ide-cd",
        kind="cd",
        paravirtual=False,
        emulates="a SATA CD drive on the board's AHCI controller",
        costs="several exits per command; there at the guest's start only",
        choose="for guests that know no virtio-scsi: installers of Windows",
        grows=False,
        waits_for_space=False,
        plugs=False,
    ),
}
NICS: Final[Mapping[NicModel, Model]] = {
    NicModel.VIRTIO: Model(
        driver="virtio-net-pci",
        kind="nic",
        paravirtual=True,
        emulates="nothing that exists: queues of packets in shared memory",
        costs="one exit per batch of packets",
        choose="always, unless the guest has no driver for it",
    ),
    NicModel.E1000E: Model(
        driver="e1000e",
        kind="nic",
        paravirtual=False,
        emulates="an Intel 82574L",
        costs="several exits per packet under load",
        choose="for guests without a virtio driver (most installers)",
    ),
}
BOARD: Final[tuple[Model, ...]] = (
    Model(
        driver="virtio-scsi-pci",
        kind="controller",
        paravirtual=True,
        emulates="nothing that exists: the queues of one SCSI disk",
        costs="in its disk's figures",
        choose="comes with each virtio-scsi disk",
    ),
    Model(
        driver="virtio-serial-pci",
        kind="channel",
        paravirtual=True,
        emulates="nothing that exists: byte streams in shared memory; the guest agent's is one of them",
        costs="one exit per message; nothing while nobody speaks",
        choose="every VM has it",
    ),
    Model(
        driver="isa-serial",
        kind="console",
        paravirtual=False,
        emulates="a 16550A at port 0x3f8 (COM1)",
        costs="an exit for each byte",
        choose="every VM has it: firmware and kernels speak on it before any driver is there",
    ),
    Model(
        driver="virtio-balloon-pci",
        kind="balloon",
        paravirtual=True,
        emulates="nothing that exists: pages that the guest gives back",
        costs="exits while memory is given or taken; reports of free pages cost less than the pages they free",
        choose="every VM has it; without its driver in the guest nothing is taken from it",
    ),
    Model(
        driver="virtio-mem-pci",
        kind="memory",
        paravirtual=True,
        emulates="nothing that exists: memory in units of 2 MiB, plugged by the guest as it is told",
        costs="nothing beside the moment of a change; its head-room is address space, not memory",
        choose="with every head-room; DIMMs are for guests without its driver",
    ),
    Model(
        driver="pc-dimm",
        kind="memory",
        paravirtual=False,
        emulates="a memory module, announced by ACPI",
        costs="nothing beside the moment of a change; comes and goes whole, in units of 128 MiB",
        choose="for guests without a virtio-mem driver",
    ),
    Model(
        driver="virtio-rng-pci",
        kind="rng",
        paravirtual=True,
        emulates="nothing that exists: random bytes of the host, 64 KiB a second at most",
        costs="a few exits at boot",
        choose="every VM has it: without it a fresh guest waits for entropy",
    ),
    Model(
        driver="VGA",
        kind="display",
        paravirtual=False,
        emulates="a VGA with the Bochs extensions, 16 MiB of video memory",
        costs="an exit for each access to a register; drawing itself is plain memory",
        choose="every VM has it: what screenshots and the graphical console show",
    ),
    Model(
        driver="i6300esb",
        kind="watchdog",
        paravirtual=False,
        emulates="the watchdog timer of an Intel 6300ESB",
        costs="an exit for each ping, some a minute",
        choose="every VM has it; it is armed by the guest",
    ),
    Model(
        driver="pvpanic-pci",
        kind="panic",
        paravirtual=True,
        emulates="nothing that exists: a register that a kernel writes to as its last act",
        costs="nothing until then",
        choose="every VM has it: a panic is known in milliseconds",
    ),
    Model(
        driver="pcie-root-port",
        kind="port",
        paravirtual=False,
        emulates="a PCI Express slot with presence detection and a power controller",
        costs="some milliseconds of each boot; nothing afterwards",
        choose="one for each disk and NIC, and spare ones for those that are plugged later",
    ),
)
MODELS: Final[Mapping[str, Model]] = {model.driver: model for model in (*DISKS.values(), *NICS.values(), *BOARD)}
"""by QEMU's name"""
