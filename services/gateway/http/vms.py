"""/v1/vms: the VMs of the token's projects."""

from __future__ import annotations

import base64
import binascii
from collections import Counter
from collections.abc import Mapping
from typing import Any

import msgspec
from litestar import Router, delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from libs.common.bus import BusError
from libs.common.messages import Command, encode
from proto import compute as c
from proto.growth import ResizeVm
from proto.machine import DiskWish, NicWish
from proto.migration import CancelMigration, MigrateVm
from proto.node import AskExec, AskInfo, ExecResult, VmInfo
from services.gateway import seeds
from services.gateway.asking import ask_node
from services.gateway.auth import Action, Principal
from services.gateway.commands import Accepted
from services.gateway.gateway import Gateway, in_project, name_is_free
from services.gateway.http.backup_files import HANDLERS as FILES
from services.gateway.http.backup_plans import HANDLERS as PLANS
from services.gateway.http.backups import HANDLERS as BACKUPS
from services.gateway.http.bodies import (
    AllotmentBody,
    ExecAnswer,
    ExecBody,
    MigrateVmBody,
    NewVm,
    SizeBody,
    StartVmBody,
    StopVmBody,
    Vms,
)
from services.gateway.http.console import console
from services.gateway.http.devices import HANDLERS as DEVICES
from services.gateway.http.door import Asked, asker
from services.gateway.http.drills import HANDLERS as DRILLS
from services.gateway.http.guards import set_guard, show_guard
from services.gateway.http.history import history
from services.gateway.http.io import io
from services.gateway.http.memory import memory_of_vm, translate_vm
from services.gateway.http.recoveries import recover, recovering
from services.gateway.http.schedule import schedule
from services.gateway.http.screenshot import screenshot
from services.gateway.http.snapshots import HANDLERS as SNAPSHOTS
from services.gateway.http.verdicts import HANDLERS as VERDICTS
from services.gateway.problems import Problem, not_running
from services.gateway.views.guards import stays
from services.gateway.views.vms import Vm

KINDS: dict[type[Command], str] = {c.SetAllotment: "allot", ResizeVm: "resize", CancelMigration: "cancel-migration"}
INFO_S = 1.0
"""how long a question to the agent about one VM may hold up its page"""
EXEC_SLACK_S = 10.0
ANSWER_BYTES_MAX = 1024 * 1024

_decode_info = msgspec.msgpack.Decoder(VmInfo).decode


@get("", action=Action.READ, summary="List VMs")
async def list_vms(request: Asked, gateway: NamedDependency[Gateway]) -> Vms:
    every = gateway.model.vms.all.values()
    counts = gateway.model.nodes.reaching()
    seen = (_with_guard(gateway, vm, counts) for vm in every if request.user.sees(vm.project))
    return Vms(sorted(seen, key=lambda vm: vm.name))


@get("/{vm:str}", action=Action.READ, summary="Show a VM")
async def show_vm(request: Asked, gateway: NamedDependency[Gateway], vm: FromPath[str]) -> Vm:
    """Addresses and pCPUs come from the agent where it answers within a second."""
    found = _with_guard(gateway, await gateway.vm(request.user, vm), gateway.model.nodes.reaching())
    if found.state not in ("running", "paused", "out-of-space") or not found.node:
        return found
    try:
        data = await gateway.bus.request(f"ask.{found.node}.info", encode(AskInfo(vm=vm)), timeout_s=INFO_S)
        info = _decode_info(data)
    except (BusError, Problem, msgspec.DecodeError, msgspec.ValidationError):  # Problem: of the past nobody is asked
        return found
    if info.error or info.generation not in (0, found.generation):
        return found
    return msgspec.structs.replace(
        found, addresses=info.addresses, pcpus=info.pcpus or found.pcpus, sending=info.sending
    )


def _with_guard(gateway: Gateway, vm: Vm, counts: Mapping[str, Counter[str]]) -> Vm:
    """node_lost: it is not known what became of it there. counts: as proto.guard.reaching."""
    one, lost = gateway.model.guards.guard(vm.name), gateway.model.ha.nodes.get(vm.node)
    said = lost.sentence or "it was declared lost" if lost is not None and lost.standing == "lost" else ""
    return msgspec.structs.replace(
        vm, guard=one.guard, owed=one.owed, let_go=one.ended, node_lost=said, stays=stays(vm, counts),
        recovering=recovering(gateway.model.recoveries.of_target(vm.name)),
    )  # fmt: skip


@post("", action=Action.OPERATE, status_code=202, summary="Create a VM")
async def create_vm(request: Asked, gateway: NamedDependency[Gateway], data: JSONBody[NewVm]) -> Accepted:
    """With `start`, two commands: the VM stays when it is defined but cannot be started."""
    who, ask = request.user, asker(request, gateway)
    project = in_project(who, data.project)
    name_is_free(gateway, data.name, project)
    _is_offered(data)
    command = _definition(gateway, who, data)
    if data.seed is not None:
        command = await seeds.kept(gateway, command, data.seed)
    try:
        defined = await gateway.commands.ask(
            ask, "compute", f"vm-{data.name}", command, project, id=f"{ask.id}.define" if data.start else ""
        )
    except Problem as problem:
        if problem.body.status < 500:
            seeds.drop(gateway, command)
        raise
    if not data.start:
        return defined
    try:
        return await gateway.commands.ask(ask, "compute", f"vm-{data.name}", c.StartVm(vm=data.name), project)
    except Problem as problem:
        problem.body.detail = f"{data.name} was created, but not started: {problem.body.detail}"
        problem.body.task = ask.id
        raise


def _definition(gateway: Gateway, who: Principal, data: NewVm) -> c.DefineVm:
    disks = sorted((disk.wish for disk in data.disks or ()), key=lambda disk: disk.bus.is_cd)
    if data.image and all(disk.image != data.image for disk in disks):
        disks.insert(0, DiskWish(image=data.image))
    for index, disk in enumerate(disks):
        _check_disk(gateway, who, index, disk)
        if disk.bus.is_cd and (iso := gateway.model.images.all.get(disk.image)) is not None:
            disks[index] = msgspec.structs.replace(disk, pool=iso.pool)
    nics = (NicWish(),) if data.nics is None else tuple(nic.wish for nic in data.nics)
    return c.DefineVm(
        vm=data.name,
        vcpus=data.vcpus,
        memory_mib=data.memory_mib,
        vcpus_max=data.vcpus_max,
        memory_max_mib=data.memory_max_mib,
        memory_by=data.memory_by,
        disks=tuple(disks),
        nics=nics,
        priority=data.priority,
        allotment=data.allotment,
        firmware=data.firmware,
        system=data.system,
        uuid=gateway.clock.new_id(),
    )


def _is_offered(data: NewVm) -> None:
    """What is refused in writing (docs/decisions/0020): asked for, it is answered, not overlooked."""
    if data.pci:
        text = "PCI passthrough is not offered: such a VM could neither move nor give its memory back"
        raise Problem(400, "NOT_OFFERED", text, "use a virtio disk or NIC; docs/decisions/0020 says why", field="pci")
    if data.security_groups:
        text = "security groups are not offered: networks keep guests to their own addresses, and filter nothing else"
        raise Problem(400, "NOT_OFFERED", text, "filter in the guest or at the network's router", field="security_groups")


def _check_disk(gateway: Gateway, who: Principal, index: int, disk: DiskWish) -> None:
    """An image of a project that the token does not see is as unknown as one that does not exist."""
    if not disk.image:
        if disk.size_mib == 0 and not disk.bus.is_cd:
            text = f"disks[{index}]: a blank disk needs a size"
            raise Problem(400, "BAD_BODY", text, "give size_mib, or an image", field=f"disks[{index}].size_mib")
        return
    image = gateway.model.images.all.get(disk.image)
    if image is not None and not who.sees(image.project):
        raise Problem(
            409, "NO_IMAGE", f"there is no image `{disk.image}` that this token may see", "list the images first"
        )


async def _tell(request: Asked, gateway: Gateway, vm: str, command: Command) -> Accepted:
    """A command about a VM that exists, in that VM's project."""
    ask = asker(request, gateway)
    found = await gateway.vm(request.user, vm)
    accepted = await gateway.commands.ask(ask, "compute", f"vm-{vm}", command, found.project)
    if accepted.position == 0:
        kind = KINDS.get(type(command)) or type(command).__name__.removesuffix("Vm").lower()
        text = f"nothing had to change: {vm} is {found.state}"
        gateway.unchanged(accepted.task, kind, vm, found.project, text)
    return accepted


@post("/{vm:str}/start", action=Action.OPERATE, status_code=202, summary="Start a VM")
async def start_vm(
    request: Asked, gateway: NamedDependency[Gateway], vm: FromPath[str], data: JSONBody[StartVmBody | None] = None
) -> Accepted:
    return await _tell(request, gateway, vm, c.StartVm(vm=vm, node=data.node if data else ""))


@post("/{vm:str}/stop", action=Action.OPERATE, status_code=202, summary="Stop a VM")
async def stop_vm(
    request: Asked, gateway: NamedDependency[Gateway], vm: FromPath[str], data: JSONBody[StopVmBody | None] = None
) -> Accepted:
    deadline_s = StopVmBody().deadline_s if data is None else data.deadline_s
    return await _tell(request, gateway, vm, c.StopVm(vm=vm, deadline_s=deadline_s))


@post("/{vm:str}/migrate", action=Action.OPERATE, status_code=202, summary="Move a running VM to another node")
async def migrate_vm(
    request: Asked, gateway: NamedDependency[Gateway], vm: FromPath[str], data: JSONBody[MigrateVmBody | None] = None
) -> Accepted:
    """It runs on while its memory is sent, and stays where it is when anything goes wrong."""
    body = data or MigrateVmBody()
    return await _tell(request, gateway, vm, MigrateVm(vm=vm, node=body.node, deadline_s=body.deadline_s))


@post("/{vm:str}/migrate/cancel", action=Action.OPERATE, status_code=202, summary="Let a VM stay where it is")
async def cancel_migration(request: Asked, gateway: NamedDependency[Gateway], vm: FromPath[str]) -> Accepted:
    return await _tell(request, gateway, vm, CancelMigration(vm=vm))


@post("/{vm:str}/reset", action=Action.OPERATE, status_code=202, summary="Reset a VM, as by its button")
async def reset_vm(request: Asked, gateway: NamedDependency[Gateway], vm: FromPath[str]) -> Accepted:
    return await _tell(request, gateway, vm, c.ResetVm(vm=vm))


@post("/{vm:str}/pause", action=Action.OPERATE, status_code=202, summary="Pause a VM's vCPUs")
async def pause_vm(request: Asked, gateway: NamedDependency[Gateway], vm: FromPath[str]) -> Accepted:
    return await _tell(request, gateway, vm, c.PauseVm(vm=vm))


@post("/{vm:str}/resume", action=Action.OPERATE, status_code=202, summary="Let a paused VM go on")
async def resume_vm(request: Asked, gateway: NamedDependency[Gateway], vm: FromPath[str]) -> Accepted:
    return await _tell(request, gateway, vm, c.ResumeVm(vm=vm))


@post("/{vm:str}/allotment", action=Action.OPERATE, status_code=202, summary="Change what a VM is worth")
async def allot_vm(
    request: Asked, gateway: NamedDependency[Gateway], vm: FromPath[str], data: JSONBody[AllotmentBody]
) -> Accepted:
    """At rest or while it runs; a running VM's schedule follows at once. What is not said stays as it is."""
    command = c.SetAllotment(
        vm=vm,
        priority=data.priority,
        cpu_weight=data.cpu_weight,
        cpu_cap_pct=data.cpu_cap_pct,
        cpu_reserved_pct=data.cpu_reserved_pct,
        memory_reserved_mib=data.memory_reserved_mib,
        pins=None if data.pins is None else tuple(data.pins),
        together=data.together,
        apart=data.apart,
        one_cell=data.one_cell,
    )
    return await _tell(request, gateway, vm, command)


@post("/{vm:str}/size", action=Action.OPERATE, status_code=202, summary="Change a VM's vCPUs and memory")
async def size_vm(
    request: Asked, gateway: NamedDependency[Gateway], vm: FromPath[str], data: JSONBody[SizeBody]
) -> Accepted:
    """At rest, or while it runs: then within the maximum that it was started with, and without a restart."""
    command = ResizeVm(
        vm=vm,
        vcpus=data.vcpus or 0,
        memory_mib=data.memory_mib or 0,
        vcpus_max=data.vcpus_max or 0,
        memory_max_mib=data.memory_max_mib or 0,
        memory_by=data.memory_by,
    )
    return await _tell(request, gateway, vm, command)


@delete("/{vm:str}", action=Action.OPERATE, status_code=202, summary="Delete a stopped VM and its disks")
async def delete_vm(request: Asked, gateway: NamedDependency[Gateway], vm: FromPath[str]) -> Accepted:
    return await _tell(request, gateway, vm, c.DeleteVm(vm=vm))


@post("/{vm:str}/exec", action=Action.EXEC, status_code=200, summary="Run a program inside the guest")
async def exec_vm(
    request: Asked, gateway: NamedDependency[Gateway], vm: FromPath[str], data: JSONBody[ExecBody]
) -> ExecAnswer:
    """By the guest's agent; never recorded, never traced: arguments may be secret. Output: at most 1 MiB each."""
    found = await gateway.vm(request.user, vm)
    if found.state != "running":
        raise not_running(vm, found.state)
    ask = AskExec(vm=vm, argv=tuple(data.argv), input=_input(data.input_b64), timeout_s=data.timeout_s)
    result = await ask_node(
        gateway.bus, found.node, "exec", ExecResult, ask, data.timeout_s + EXEC_SLACK_S,
        unasked=f"nothing was run in {vm}", unheard="the program may have run",
    )  # fmt: skip
    if result.error:
        raise Problem(409, "NOT_RUN", result.error, "see that the guest agent runs in the guest")
    return _answer(result)


def _answer(result: ExecResult) -> ExecAnswer:
    cut = max(len(result.stdout), len(result.stderr)) > ANSWER_BYTES_MAX
    out, err = (base64.b64encode(x[:ANSWER_BYTES_MAX]).decode() for x in (result.stdout, result.stderr))
    return ExecAnswer(result.exit_code, out, err, result.truncated or cut)


def _input(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Problem(400, "BAD_BODY", f"input_b64: {error}", "send base64 text", field="input_b64") from None


HANDLERS: list[Any] = [
    list_vms, show_vm, create_vm, start_vm, stop_vm, migrate_vm, cancel_migration,
    reset_vm, pause_vm, resume_vm, delete_vm, exec_vm, console,
    screenshot, translate_vm, memory_of_vm, allot_vm, size_vm, schedule, io, history, show_guard, set_guard,
    *DEVICES, *SNAPSHOTS, *VERDICTS, *BACKUPS, *FILES, *PLANS, *DRILLS, recover,
]  # fmt: skip

router = Router("/v1/vms", route_handlers=HANDLERS, tags=["VMs"])
