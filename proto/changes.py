"""io: what is asked of one VM's devices (streams `devices-VM`). A part of io.py."""

from __future__ import annotations

from typing import Annotated

import msgspec

from libs.common.messages import Command, Name
from proto.devices import Known
from proto.machine import DiskLimits, DiskMib, DiskWish, NicModel
from proto.networks import USER, Queues


class AttachDisk(Command):
    """A new disk: an overlay on an image, or a blank one. size_mib 0: as large as the image."""

    vm: Name
    disk: DiskWish
    known: Known = Known()


class ReattachDisk(Command):
    """A disk of this VM that was detached, and whose file was left in its pool, is its own again."""

    vm: Name
    name: Name
    known: Known = Known()


class DetachDisk(Command):
    """delete: its file is removed, once the guest has let go of it; else the file stays in its pool."""

    vm: Name
    name: Name
    delete: bool = False
    known: Known = Known()


class ResizeDisk(Command):
    """Disks only grow."""

    vm: Name
    name: Name
    size_mib: DiskMib
    known: Known = Known()


class LimitDisk(Command):
    vm: Name
    name: Name
    limits: DiskLimits
    known: Known = Known()


class AttachNic(Command):
    """As NicWish."""

    vm: Name
    network: Name = USER
    model: NicModel = NicModel.VIRTIO
    queues: Queues = 1
    known: Known = Known()


class DetachNic(Command):
    vm: Name
    name: Name
    known: Known = Known()


class SetNic(Command):
    """link: the cable is in; network: another for it. What is None stays."""

    vm: Name
    name: Name
    link: bool | None = None
    network: Name | None = None
    known: Known = Known()


class SetMedium(Command):
    """What is to lie in a CD drive from now on; image "": nothing. name "": its first drive. force: out with what is there,
    even where the guest holds the drive locked."""

    vm: Name
    name: Annotated[str, msgspec.Meta(max_length=63)] = ""
    image: Annotated[str, msgspec.Meta(max_length=63)] = ""
    force: bool = False
    known: Known = Known()


ChangeCommand = (
    AttachDisk | ReattachDisk | DetachDisk | ResizeDisk | LimitDisk | SetMedium | AttachNic | DetachNic | SetNic
)
"""changes of one VM's devices"""
