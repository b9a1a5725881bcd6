"""/v1/images: what disks are made of. The body of an import is the file itself, streamed to the pool."""

from __future__ import annotations

from typing import Annotated

from litestar import Router, delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, QueryParameter

from libs.common.messages import DNS_LABEL
from proto import io
from services.gateway.auth import Action
from services.gateway.commands import Accepted
from services.gateway.gateway import Gateway, in_project
from services.gateway.http.bodies import Images
from services.gateway.http.door import Asked, asker
from services.gateway.problems import Problem
from services.gateway.views.images import Image

QueryName = Annotated[str, QueryParameter(pattern=DNS_LABEL, max_length=63, description="a DNS label")]
QueryProject = Annotated[str, QueryParameter(pattern=r"^([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)?$", max_length=63)]
QuerySha = Annotated[str | None, QueryParameter(pattern=r"^[0-9a-f]{64}$", description="of the file, in hex")]
QueryVm = Annotated[str, QueryParameter(pattern=r"^([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)?$", max_length=63)]
QueryDisk = Annotated[str, QueryParameter(max_length=128, description="of an appliance")]


@get("", action=Action.READ, summary="List images")
async def list_images(request: Asked, gateway: NamedDependency[Gateway]) -> Images:
    seen = (image for image in gateway.model.images.all.values() if request.user.sees(image.project))
    return Images(sorted(seen, key=lambda image: image.name))


@get("/{image:str}", action=Action.READ, summary="Show an image")
async def show_image(request: Asked, gateway: NamedDependency[Gateway], image: FromPath[str]) -> Image:
    return await gateway.image(request.user, image)


@post("", action=Action.IMAGES, status_code=202, summary="Import an image", request_max_body_size=None)
async def import_image(
    request: Asked,
    gateway: NamedDependency[Gateway],
    name: QueryName,
    format: FromQuery[io.ImageFormat] = io.ImageFormat.QCOW2,
    sha256: QuerySha = None,
    disk: QueryDisk = "",
    pool: QueryName = "default",
    project: QueryProject = "",
    from_vm: QueryVm = "",
    snapshot: QueryVm = "",
) -> Accepted:
    """The file is inspected as exactly `format` by an agent; backing files and external data files are refused. Of what is neither
    raw nor qcow2 a qcow2 is made. disk: which disk of an appliance (ova); its first, where none is named.

    from_vm: the image is made of a disk of that VM instead, and there is no body: of what a snapshot holds of it, or, where none is
    named, of what is on it while the VM is stopped."""
    ask, target = asker(request, gateway), in_project(request.user, project)
    if name in gateway.model.images.all and gateway.model.images.all[name].state != "rejected":
        raise Problem(
            409, "IMAGE_KNOWN", f"there is an image `{name}`", "take another name, or delete that image first"
        )
    if from_vm:
        return await _make(request, gateway, io.MakeImage(image=name, vm=from_vm, disk=disk, snapshot=snapshot), target)
    if snapshot:
        raise Problem(400, "NO_VM", "a snapshot is named, and no VM", "name it: from_vm", field="from_vm")
    file = await gateway.uploads.take(pool, _length(request), request.stream())
    command = io.ImportImage(image=name, file=file, format=format, pool=pool, sha256=sha256, disk=disk)
    try:
        accepted = await gateway.commands.ask(ask, "io", f"image-{name}", command, target)
    except Problem as problem:
        if problem.body.status < 500:
            gateway.uploads.drop(pool, file)
        raise
    if accepted.position == 0:
        gateway.uploads.drop(pool, file)
        gateway.unchanged(accepted.task, "import", name, target, "nothing had to change")
    return accepted


async def _make(request: Asked, gateway: Gateway, command: io.MakeImage, project: str) -> Accepted:
    if _length(request):
        said = f"the image {command.image} is to be made of {command.vm}, and a body was sent"
        raise Problem(400, "NO_BODY", said, "send no body, or leave from_vm out")
    await gateway.vm(request.user, command.vm)
    return await gateway.commands.ask(asker(request, gateway), "io", f"image-{command.image}", command, project)


def _length(request: Asked) -> int | None:
    text = request.headers.get("content-length")
    return int(text) if text and text.isdigit() else None


@delete("/{image:str}", action=Action.IMAGES, status_code=202, summary="Delete an image that no VM stands on")
async def delete_image(request: Asked, gateway: NamedDependency[Gateway], image: FromPath[str]) -> Accepted:
    ask = asker(request, gateway)
    found = await gateway.image(request.user, image)
    command = io.DeleteImage(image=image)
    accepted = await gateway.commands.ask(ask, "io", f"image-{image}", command, found.project)
    if accepted.position == 0:
        gateway.unchanged(accepted.task, "delete-image", image, found.project, f"nothing had to change on {image}")
    return accepted


router = Router("/v1/images", route_handlers=[list_images, show_image, import_image, delete_image], tags=["Images"])
