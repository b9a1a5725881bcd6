"""/v1/waves: many VMs recovered from their backups by one order, and how far that is."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import msgspec
from litestar import Router, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from msgspec.structs import replace

from libs.common.log import LogError
from libs.common.messages import Name
from proto.waves import After as Comes
from proto.waves import AskWave, AtOnce, CancelWave, CopyingMax, LoseCount, RecoverMany, WavePlan, WaveWish
from services.gateway.asking import ask_service
from services.gateway.auth import Action
from services.gateway.commands import Accepted
from services.gateway.gateway import DEFAULT_PROJECT, Gateway
from services.gateway.http.bodies import Body, Label, Mibps
from services.gateway.http.door import Asked, asker
from services.gateway.http.recoveries import instant
from services.gateway.problems import Problem, away
from services.gateway.views.waves import Forecast, Left, Step, Wave, forecast, left, steps
from services.gateway.why.reading import refusals

VMS_MAX = 2000
ASKED_MAX = 50
"""steps of which it is looked up what was refused"""
Names = Annotated[list[Name], msgspec.Meta(max_length=VMS_MAX)]


class AfterBody(Body):
    """vm begins only once `first` runs."""

    vm: Name
    first: Name


class WaveBody(Body):
    """Which VMs: those that ran last on `node`, or `all`, and those named in vms. Only a named one is also recovered where it is
    there and well, or was deleted. at: each from its newest sound backup that is not after that moment. lose: VMs of which what is
    on their disks is thrown away, by name, or lose_count: how many they are. after: beside what guards say. at_once: recoveries
    that do not run yet; copying_max: VMs of which data is still to come home, 0: no limit; bandwidth_mibps: what each pool of
    backups gives, 0: no limit. name: of the wave; empty: one is made of the time."""

    name: Label = ""
    node: Label = ""
    all: bool = False
    vms: Names = msgspec.field(default_factory=list)
    at: str = ""
    lose: Names = msgspec.field(default_factory=list)
    lose_count: LoseCount = 0
    after: Annotated[list[AfterBody], msgspec.Meta(max_length=VMS_MAX)] = msgspec.field(default_factory=list)
    at_once: AtOnce = 4
    copying_max: CopyingMax = 16
    bandwidth_mibps: Mibps = 0


class WaveAccepted(Accepted):
    wave: str = ""


class Plan(msgspec.Struct):
    """What would be done now. lose: VMs of which what is on their disks would be thrown away. refused, remedy: why the order would
    be refused as it is, and what helps; empty: it would not be."""

    steps: list[Step]
    left: list[Left]
    left_more: int
    lose: list[str]
    refused: str
    remedy: str


class ShownWave(msgspec.Struct):
    wave: Wave
    forecast: Forecast | None = None


class Waves(msgspec.Struct):
    items: list[ShownWave]


@post("", action=Action.NODES, status_code=202, summary="Recover many VMs by one order")
async def recover_many(request: Asked, gateway: NamedDependency[Gateway], data: JSONBody[WaveBody]) -> WaveAccepted:
    """By class and dependency, so many at once. Refused where what VMs have on their disks would be thrown away, and nobody said
    so."""
    wish = await _wish(gateway, data)
    name = data.name or datetime.fromtimestamp(gateway.clock.now_us() // 1_000_000, UTC).strftime("w-%Y%m%d-%H%M%S")
    accepted = await gateway.commands.ask(
        asker(request, gateway), "io", f"wave-{name}", RecoverMany(wave=name, wish=wish), DEFAULT_PROJECT
    )
    return WaveAccepted(**msgspec.structs.asdict(accepted), wave=name)


@post("/plan", action=Action.NODES, status_code=200, summary="What recovering many VMs would do")
async def plan_wave(request: Asked, gateway: NamedDependency[Gateway], data: JSONBody[WaveBody]) -> Plan:
    """In which order, and why; who is left out, and why. Nothing is done by asking."""
    found = await ask_service(gateway.bus, "io", "wave", WavePlan, AskWave(wish=await _wish(gateway, data)))
    return Plan(steps(found.steps), left(found.left), found.left_more, list(found.lose), found.refused, found.remedy)


async def _wish(gateway: Gateway, body: WaveBody) -> WaveWish:
    """Raises Problem 400, 503."""
    if body.node and body.all:
        raise Problem(400, "BAD_BODY", "`node` and `all` each say which VMs", "give one of them", field="all")
    if not (body.node or body.all or body.vms):
        raise Problem(400, "BAD_BODY", "nobody is named", "give `node`, `all` or `vms`", field="vms")
    return WaveWish(
        node=body.node, all=body.all, vms=tuple(body.vms), at_us=await instant(gateway, body.at), lose=tuple(body.lose),
        lose_count=body.lose_count, after=tuple(Comes(vm=one.vm, first=one.first) for one in body.after), at_once=body.at_once,
        copying_max=body.copying_max, bandwidth_mibps=body.bandwidth_mibps,
    )  # fmt: skip


@post("/{wave:str}/cancel", action=Action.NODES, status_code=202, summary="Begin no more recoveries of a wave")
async def cancel_wave(request: Asked, gateway: NamedDependency[Gateway], wave: FromPath[str]) -> Accepted:
    """What has begun goes on."""
    _find(gateway, wave)
    accepted = await gateway.commands.ask(asker(request, gateway), "io", f"wave-{wave}", CancelWave(wave=wave), DEFAULT_PROJECT)
    if accepted.position == 0:
        gateway.unchanged(accepted.task, "cancel-wave", wave, "", f"{wave} begins nothing more already")
    return accepted


@get("", action=Action.NODES, summary="List waves of recoveries")
async def list_waves(request: Asked, gateway: NamedDependency[Gateway]) -> Waves:
    """The oldest first; the newest hundred are kept."""
    return Waves([_shown(gateway, one) for one in gateway.model.waves.all.values()])


@get("/{wave:str}", action=Action.NODES, summary="Show a wave of recoveries")
async def show_wave(request: Asked, gateway: NamedDependency[Gateway], wave: FromPath[str]) -> ShownWave:
    """With what was refused to a step that has begun and does not run: a refusal leaves no event."""
    shown = _shown(gateway, _find(gateway, wave))
    unrun = [step for step in shown.wave.steps if step.begun_us and not step.ran_us][:ASKED_MAX]
    if not unrun:
        return shown
    said = {step.vm: said for step in unrun if (said := await _refused(gateway, step))}
    told = [replace(step, sentence="; ".join(filter(None, (step.sentence, said.get(step.vm))))) for step in shown.wave.steps]
    return replace(shown, wave=replace(shown.wave, steps=told))


async def _refused(gateway: Gateway, step: Step) -> str:
    """Its recovery, or the start that this leads to. Raises Problem 503."""
    try:
        asked = await refusals(gateway.log, f"backups-{step.vm}")
        found = [no for no in asked if no.command == "recover_vm"]
        found += [no for no in await refusals(gateway.log, f"vm-{step.vm}") if no.command == "start_vm"]
    except LogError as error:
        raise away(f"the log cannot be read: {error}") from error
    newest = max((no for no in found if no.at_us >= step.begun_us), key=lambda no: no.at_us, default=None)
    return f"refused: {newest.sentence}" if newest is not None else ""


def _find(gateway: Gateway, name: str) -> Wave:
    """Raises Problem 404."""
    found = gateway.model.waves.all.get(name)
    if found is None:
        raise Problem(404, "WAVE_UNKNOWN", f"there is no wave {name}", "see asvctl recovery waves; the newest hundred are kept")
    return found


def _shown(gateway: Gateway, one: Wave) -> ShownWave:
    now_us = gateway.past.at_us if gateway.past is not None else gateway.clock.now_us()
    return ShownWave(one, forecast(one, now_us))


routes = [
    Router("/v1/waves", route_handlers=[recover_many, plan_wave, cancel_wave, list_waves, show_wave], tags=["Recovery"])
]
