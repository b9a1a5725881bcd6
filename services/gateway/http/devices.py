"""/v1/vms/NAME/disks and /nics: attached, detached and changed, at rest or while the VM runs."""

from __future__ import annotations

from typing import Literal

from litestar import delete, patch, post
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, JSONBody

from libs.common.messages import Command, Name
from proto.io import (
    AttachDisk,
    AttachNic,
    DetachDisk,
    DetachNic,
    LimitDisk,
    ReattachDisk,
    ResizeDisk,
    SetMedium,
    SetNic,
)
from proto.machine import DiskBus, DiskFormat, DiskMib, DiskWish
from services.gateway.auth import Action
from services.gateway.commands import Accepted
from services.gateway.gateway import Gateway
from services.gateway.http.bodies import Body, Label, LimitsBody, NewDisk, NewNic
from services.gateway.http.door import Asked, asker
from services.gateway.problems import Problem


class DiskBody(Body):
    """What is to change of a disk: its size (it only grows), or its limits."""

    size_mib: DiskMib | None = None
    limits: LimitsBody | None = None


class NewCdBody(Body):
    """A drive, with the ISO that is to lie in it."""

    image: Label = ""
    bus: Literal["cdrom", "sata-cdrom"] = "cdrom"


class MediumBody(Body):
    """image "": nothing is to lie in it. force: out with what is there, even where the guest holds the drive locked."""

    image: Label = ""
    force: bool = False


class NicBody(Body):
    """link: whether the cable is in; network: another for it, while the VM is at rest. What is left out stays."""

    link: bool | None = None
    network: Name | None = None


async def _tell(request: Asked, gateway: Gateway, vm: str, kind: str, command: Command) -> Accepted:
    ask = asker(request, gateway)
    found = await gateway.vm(request.user, vm)
    accepted = await gateway.commands.ask(ask, "io", f"devices-{vm}", command, found.project)
    if accepted.position == 0:
        gateway.unchanged(accepted.task, kind, vm, found.project, "nothing had to change")
    return accepted


@post("/{vm:str}/disks", action=Action.OPERATE, status_code=202, summary="Attach a disk")
async def attach_disk(
    request: Asked, gateway: NamedDependency[Gateway], vm: FromPath[str], data: JSONBody[NewDisk]
) -> Accepted:
    return await _tell(request, gateway, vm, "attach-disk", AttachDisk(vm=vm, disk=data.wish))


@post("/{vm:str}/disks/{disk:str}/attach", action=Action.OPERATE, status_code=202, summary="Attach a disk again")
async def reattach_disk(
    request: Asked, gateway: NamedDependency[Gateway], vm: FromPath[str], disk: FromPath[str]
) -> Accepted:
    """One that was detached from this VM, and whose file was left in its pool."""
    return await _tell(request, gateway, vm, "attach-disk", ReattachDisk(vm=vm, name=disk))


@delete("/{vm:str}/disks/{disk:str}", action=Action.OPERATE, status_code=202, summary="Detach a disk")
async def detach_disk(
    request: Asked, gateway: NamedDependency[Gateway], vm: FromPath[str], disk: FromPath[str], remove: FromQuery[bool] = False
) -> Accepted:
    """remove: its file too, once the guest has let go of it; else the file stays in its pool."""
    return await _tell(request, gateway, vm, "detach-disk", DetachDisk(vm=vm, name=disk, delete=remove))


@patch("/{vm:str}/disks/{disk:str}", action=Action.OPERATE, status_code=202, summary="Grow or limit a disk")
async def change_disk(
    request: Asked, gateway: NamedDependency[Gateway], vm: FromPath[str], disk: FromPath[str], data: JSONBody[DiskBody]
) -> Accepted:
    """One of the two."""
    if (data.size_mib is None) is (data.limits is None):
        raise Problem(400, "BAD_BODY", "one of size_mib and limits is to be named", "one request for each")
    if data.limits is not None:
        return await _tell(request, gateway, vm, "limit-disk", LimitDisk(vm=vm, name=disk, limits=data.limits.limits))
    return await _tell(request, gateway, vm, "resize-disk", ResizeDisk(vm=vm, name=disk, size_mib=data.size_mib or 1))


@post("/{vm:str}/cds", action=Action.OPERATE, status_code=202, summary="Attach a CD drive")
async def attach_cd(
    request: Asked, gateway: NamedDependency[Gateway], vm: FromPath[str], data: JSONBody[NewCdBody]
) -> Accepted:
    wish = DiskWish(image=data.image, format=DiskFormat.RAW, pool=_pool_of(request, gateway, data.image), bus=DiskBus(data.bus))
    return await _tell(request, gateway, vm, "attach-disk", AttachDisk(vm=vm, disk=wish))


@patch("/{vm:str}/cds/{drive:str}", action=Action.OPERATE, status_code=202, summary="Put an ISO into a CD drive, or take it out")
async def set_medium(
    request: Asked, gateway: NamedDependency[Gateway], vm: FromPath[str], drive: FromPath[str], data: JSONBody[MediumBody]
) -> Accepted:
    """drive `-`: the VM's first."""
    _pool_of(request, gateway, data.image)
    command = SetMedium(vm=vm, name="" if drive == "-" else drive, image=data.image, force=data.force)
    return await _tell(request, gateway, vm, "set-medium", command)


def _pool_of(request: Asked, gateway: Gateway, name: str) -> str:
    """An image of a project that the token does not see is as unknown as one that does not exist."""
    image = gateway.model.images.all.get(name)
    if image is not None and not request.user.sees(image.project):
        raise Problem(409, "NO_IMAGE", f"there is no image `{name}` that this token may see", "list the images first")
    return image.pool if image is not None else "default"


@post("/{vm:str}/nics", action=Action.OPERATE, status_code=202, summary="Attach a NIC")
async def attach_nic(
    request: Asked, gateway: NamedDependency[Gateway], vm: FromPath[str], data: JSONBody[NewNic]
) -> Accepted:
    command = AttachNic(vm=vm, network=data.network, model=data.model, queues=data.queues)
    return await _tell(request, gateway, vm, "attach-nic", command)


@delete("/{vm:str}/nics/{nic:str}", action=Action.OPERATE, status_code=202, summary="Detach a NIC")
async def detach_nic(
    request: Asked, gateway: NamedDependency[Gateway], vm: FromPath[str], nic: FromPath[str]
) -> Accepted:
    return await _tell(request, gateway, vm, "detach-nic", DetachNic(vm=vm, name=nic))


@patch("/{vm:str}/nics/{nic:str}", action=Action.OPERATE, status_code=202, summary="Set a NIC's cable or network")
async def set_nic(
    request: Asked, gateway: NamedDependency[Gateway], vm: FromPath[str], nic: FromPath[str], data: JSONBody[NicBody]
) -> Accepted:
    return await _tell(request, gateway, vm, "set-nic", SetNic(vm=vm, name=nic, link=data.link, network=data.network))


HANDLERS = [attach_disk, reattach_disk, detach_disk, change_disk, attach_cd, set_medium, attach_nic, detach_nic, set_nic]
