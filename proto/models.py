"""Device models: what the guest sees, what it costs, when to choose it. The one table; drivers, refusals and `vm io` read it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from libs.common.messages import Value
from proto.machine import DiskBus, NicModel


class Model(Value):
    """paravirtual: the guest knows that it is a VM, and speaks to QEMU by shared rings; else a real device is emulated, and each
    access to its registers leaves the guest. grows: a larger size is seen while the guest runs."""

    paravirtual: bool
    emulates: str
    costs: str
    choose: str
    grows: bool = True


DISKS: Final[Mapping[DiskBus, Model]] = {
    DiskBus.VIRTIO_BLK: Model(
        paravirtual=True,
        emulates="nothing that exists: a queue of requests in shared memory",
        costs="one exit per batch of requests, one PCI slot per disk",
        choose="always, unless the guest has no driver for it",
    ),
    DiskBus.VIRTIO_SCSI: Model(
        paravirtual=True,
        emulates="a SCSI disk behind a paravirtual controller of its own",
        costs="as virtio-blk, and the SCSI commands are parsed; one PCI slot per disk",
        choose="for guests that want SCSI commands (reservations, unmap on old kernels) or names like sda",
    ),
    DiskBus.NVME: Model(
        paravirtual=False,
        emulates="an NVMe controller with one namespace",
        costs="an exit for each doorbell, one PCI slot per disk",
        choose="for guests with an NVMe driver and none for virtio (most installers)",
        grows=False,
    ),
}
NICS: Final[Mapping[NicModel, Model]] = {
    NicModel.VIRTIO: Model(
        paravirtual=True,
        emulates="nothing that exists: queues of packets in shared memory",
        costs="one exit per batch of packets",
        choose="always, unless the guest has no driver for it",
    ),
    NicModel.E1000E: Model(
        paravirtual=False,
        emulates="an Intel 82574L",
        costs="several exits per packet under load",
        choose="for guests without a virtio driver (most installers)",
    ),
}
