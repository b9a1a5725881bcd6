"""/v1/vms/NAME/snapshots: taken, shown, gone back to, and deleted."""

from __future__ import annotations

from typing import Annotated

import msgspec
from litestar import delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from libs.common.messages import DNS_LABEL, Command
from proto.machine import Freeze
from proto.snapshots import DeleteSnapshot, RevertSnapshot, TakeSnapshot
from services.gateway.auth import Action
from services.gateway.commands import Accepted
from services.gateway.gateway import Gateway
from services.gateway.http.bodies import Body
from services.gateway.http.door import Asked, asker
from services.gateway.problems import Problem
from services.gateway.views.snapshots import VmSnapshot

SnapshotName = Annotated[str, msgspec.Meta(pattern=DNS_LABEL, max_length=63)]


class TakeBody(Body):
    """freeze: whether the guest's file systems are to stand still meanwhile; auto: where its agent answers."""

    name: SnapshotName
    description: Annotated[str, msgspec.Meta(max_length=256)] = ""
    freeze: Freeze = Freeze.AUTO


class RevertBody(Body):
    """lose: what is thrown away, by name: the VM, for what it wrote since, and each newer snapshot."""

    lose: list[str] = msgspec.field(default_factory=list)


class Snapshots(msgspec.Struct):
    """The oldest first."""

    snapshots: list[VmSnapshot]


async def _tell(request: Asked, gateway: Gateway, vm: str, kind: str, command: Command) -> Accepted:
    found = await gateway.vm(request.user, vm)
    accepted = await gateway.commands.ask(asker(request, gateway), "io", f"devices-{vm}", command, found.project)
    if accepted.position == 0:
        gateway.unchanged(accepted.task, kind, vm, found.project, "nothing had to change")
    return accepted


@get("/{vm:str}/snapshots", action=Action.READ, summary="List a VM's snapshots")
async def list_snapshots(request: Asked, gateway: NamedDependency[Gateway], vm: FromPath[str]) -> Snapshots:
    await gateway.vm(request.user, vm)
    return Snapshots(gateway.model.snapshots.of(vm))


@get("/{vm:str}/snapshots/{name:str}", action=Action.READ, summary="Show a snapshot")
async def show_snapshot(
    request: Asked, gateway: NamedDependency[Gateway], vm: FromPath[str], name: FromPath[str]
) -> VmSnapshot:
    await gateway.vm(request.user, vm)
    found = next((one for one in gateway.model.snapshots.of(vm) if one.name == name), None)
    if found is None:
        raise Problem(404, "SNAPSHOT_UNKNOWN", f"{vm} has no snapshot {name}", remedy=f"see asvctl snapshot ls {vm}")
    return found


@post("/{vm:str}/snapshots", action=Action.OPERATE, status_code=202, summary="Take a snapshot")
async def take_snapshot(
    request: Asked, gateway: NamedDependency[Gateway], vm: FromPath[str], data: JSONBody[TakeBody]
) -> Accepted:
    command = TakeSnapshot(vm=vm, name=data.name, description=data.description, freeze=data.freeze)
    return await _tell(request, gateway, vm, "take-snapshot", command)


@post("/{vm:str}/snapshots/{name:str}/revert", action=Action.OPERATE, status_code=202, summary="Go back to a snapshot")
async def revert_snapshot(
    request: Asked, gateway: NamedDependency[Gateway], vm: FromPath[str], name: FromPath[str], data: JSONBody[RevertBody]
) -> Accepted:
    """Of a VM that is stopped. Refused, with what would be lost, until each of it is named."""
    return await _tell(request, gateway, vm, "revert", RevertSnapshot(vm=vm, name=name, lose=tuple(data.lose)))


@delete("/{vm:str}/snapshots/{name:str}", action=Action.OPERATE, status_code=202, summary="Delete a snapshot")
async def delete_snapshot(
    request: Asked, gateway: NamedDependency[Gateway], vm: FromPath[str], name: FromPath[str]
) -> Accepted:
    """What the VM is now stays as it is; it runs on meanwhile."""
    return await _tell(request, gateway, vm, "delete-snapshot", DeleteSnapshot(vm=vm, name=name))


HANDLERS = [list_snapshots, show_snapshot, take_snapshot, revert_snapshot, delete_snapshot]
