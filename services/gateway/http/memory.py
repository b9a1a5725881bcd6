"""A VM's memory, asked of the agent of its node: what it takes of the host, and where an address of its guest really lies."""

from __future__ import annotations

import re
from typing import Annotated

import msgspec
from litestar import get
from litestar.di import NamedDependency
from litestar.params import FromPath, QueryParameter

from proto.mapping import AskMemory, AskTranslate, MemoryUse, Step, Translation, WhyNot
from services.gateway.asking import ask_node
from services.gateway.auth import Action
from services.gateway.gateway import Gateway
from services.gateway.http.door import Asked
from services.gateway.problems import Problem, not_running
from services.gateway.views.vms import Vm

ASK_S_MAX = 25.0
"""a guest agent may take ten seconds for each of two questions"""
GVA_MAX = 2**64 - 1


Gva = Annotated[str, QueryParameter(description="a guest-virtual address: 0x and hexadecimal digits, or decimal")]
Pid = Annotated[
    int, QueryParameter(ge=0, le=2**31 - 1, description="of a process in the guest; 0: as its vCPU sees it")
]


class StepShown(msgspec.Struct):
    """address, first, last: hexadecimal, since JSON's numbers end at 2^53. page_kib: 0 where it is not known."""

    space: str
    address: str
    region: str
    first: str
    last: str
    page_kib: int


class TranslationShown(msgspec.Struct):
    """cell: the machine's NUMA cell, -1: not known, or the page is nowhere. state: of the page on the host."""

    vm: str
    node: str
    generation: int
    steps: list[StepShown]
    cell: int
    state: list[str]
    simulated: bool


@get("/{vm:str}/translate", action=Action.TRANSLATE, summary="Where an address of the guest lies in the machine")
async def translate_vm(
    request: Asked, gateway: NamedDependency[Gateway], vm: FromPath[str], gva: Gva, pid: Pid = 0
) -> TranslationShown:
    """Guest-virtual → guest-physical → host-virtual → machine, as it was at that moment. Never recorded."""
    address = _address(gva)
    found = await _running(request, gateway, vm)
    answer = await ask_node(gateway.bus, found.node, "translate", Translation, AskTranslate(vm=vm, gva=address, pid=pid), ASK_S_MAX)
    if answer.error:
        status = 400 if answer.why_not is WhyNot.BAD_ADDRESS else 409
        raise Problem(status, answer.why_not or WhyNot.FAILED, answer.error + _so_far(answer), answer.remedy)
    return TranslationShown(
        vm, found.node, answer.generation, [_shown(step) for step in answer.steps], answer.cell, list(answer.state),
        answer.simulated,
    )  # fmt: skip


@get("/{vm:str}/memory", action=Action.READ, summary="What a VM takes of its host's memory")
async def memory_of_vm(request: Asked, gateway: NamedDependency[Gateway], vm: FromPath[str]) -> MemoryUse:
    found = await _running(request, gateway, vm)
    answer = await ask_node(gateway.bus, found.node, "memory", MemoryUse, AskMemory(vm=vm), ASK_S_MAX)
    if answer.error:
        raise Problem(409, "NO_FIGURES", answer.error, "ask again; see that the VM still runs")
    return answer


def _address(text: str) -> int:
    hexadecimal = re.fullmatch(r"0[xX][0-9a-fA-F]{1,16}", text)
    if hexadecimal is None and re.fullmatch(r"[0-9]{1,20}", text) is None:
        what = f"gva: {text[:80]!r} is no address"
        raise Problem(400, "BAD_ADDRESS", what, "write it as 0xffffffff81000000", field="gva")
    address = int(text, 16 if hexadecimal else 10)
    if address > GVA_MAX:
        raise Problem(400, "BAD_ADDRESS", f"gva: {text} is more than 64 bits", "give at most 64 bits", field="gva")
    return address


async def _running(request: Asked, gateway: Gateway, vm: str) -> Vm:
    found = await gateway.vm(request.user, vm)
    if found.state not in ("running", "paused", "pausing", "resuming", "stopping") or not found.node:
        raise not_running(vm, found.state)
    return found


def _so_far(answer: Translation) -> str:
    return "".join(f"; {step.space} {step.address:#x} ({step.region})" for step in answer.steps)


def _shown(step: Step) -> StepShown:
    first, last = hex(step.first), hex(step.last)
    return StepShown(step.space, hex(step.address), step.region, first, last, step.page_kib)
