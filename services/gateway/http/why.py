"""/v1/why and /v1/why-not: the true chain of causes, from recorded events and refusals."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from litestar import get
from litestar.di import NamedDependency
from litestar.params import FromPath, QueryParameter

from libs.common.log import LogError
from proto.memory import MemoryOrderReported
from services.gateway.auth import Action
from services.gateway.gateway import Gateway
from services.gateway.http.door import Asked
from services.gateway.past.moment import DIGITS_MAX, Moment, position_of
from services.gateway.problems import Problem, away, unknown
from services.gateway.reclaim import only, touched
from services.gateway.scopes import SEVERAL
from services.gateway.views.vms import Vm
from services.gateway.why import ask, reading
from services.gateway.why.around import Shown
from services.gateway.why.not_reclaimed import not_reclaimed
from services.gateway.why.not_so import WhyNot, not_on_node, not_started
from services.gateway.why.tree import Known

OBJECTS = ("vm", "image", "node", "network", "pool", "fence", "backup", "wave")
KINDS = (*OBJECTS, "event", "task")
LISTED = {"wave": "recovery waves"}
STREAMS = {"vm": ("vm", "devices"), "node": ("node", "drain"), "backup": ("backups",)}
"""kinds of objects -> kinds of streams whose events are told; of others the one of that name. What else belongs to an object comes
by its positions"""

NodeName = Annotated[str, QueryParameter(description="why the VM is not on this node")]
Started = Annotated[bool, QueryParameter(description="why the VM is not started")]
Reclaimed = Annotated[bool, QueryParameter(description="why none of the VM's memory is taken back")]
Effects = Annotated[bool, QueryParameter(description="also what came of the object's events, whatever it was about")]


@get("/v1/why/{kind:str}/{name:str}", action=Action.READ, summary="Why an object is as it is", tags=["Why"])
async def why(
    request: Asked, gateway: NamedDependency[Gateway], kind: FromPath[str], name: FromPath[str], effects: Effects = False
) -> ask.Why:
    """Its newest stories: who asked, what was decided because of it, on which evidence, and what agents saw. A VM or image that was
    deleted has its stories still. `event/POSITION`: all that led to it and came of it; `task/ID`: all that is recorded of it."""
    try:
        if kind == "event":
            return await _why_event(request, gateway, name)
        if kind == "task":
            return await _why_task(request, gateway, name)
        await visible(request, gateway, kind, name)
        shown = partial(shown_to, request, gateway, name if kind == "vm" else "")
        return await ask.why(gateway.log, _subject(gateway, kind, name), shown, effects)
    except LogError as error:
        raise away(f"the log cannot be read: {error}") from error


@get("/v1/why/backup/{vm:str}/{backup:str}", action=Action.READ, summary="Why a backup is as it is", tags=["Why"])
async def why_backup(
    request: Asked, gateway: NamedDependency[Gateway], vm: FromPath[str], backup: FromPath[str], effects: Effects = False
) -> ask.Why:
    """As of other objects. One that is gone has its stories still, and so have those of a VM that was deleted."""
    try:
        await visible(request, gateway, "backup", vm)
        about = await reading.about_backup(gateway.log, vm, backup)
        if not about:
            raise Problem(404, "BACKUP_UNKNOWN", f"nothing is recorded of a backup {backup} of {vm}", f"asvctl backup ls {vm}")
        subject = ask.Subject(f"backup/{vm}/{backup}", beside=about, led=gateway.model.ha.led)
        return await ask.why(gateway.log, subject, partial(shown_to, request, gateway, ""), effects)
    except LogError as error:
        raise away(f"the log cannot be read: {error}") from error


def _subject(gateway: Gateway, kind: str, name: str) -> ask.Subject:
    reclaims, ha, beside = gateway.model.reclaims, gateway.model.ha, []
    if kind == "node":
        beside = sorted([*reclaims.nodes.get(name, []), *ha.told.get(name, [])])
    elif kind == "vm":
        guarded, planned = gateway.model.guards.guard(name).positions, gateway.model.plans.told.get(name, ())
        beside = sorted({*reclaims.vms.get(name, ()), *guarded, *planned})
    streams = [f"{stream}-{name}" for stream in STREAMS.get(kind, (kind,))]
    return ask.Subject(f"{kind}/{name}", streams, beside, ha.led, gateway.model.nodes.pool_names())


def _other(gateway: Gateway, said: str) -> ask.Subject:
    """Of what is no object."""
    return ask.Subject(said, led=gateway.model.ha.led, pools=gateway.model.nodes.pool_names())


async def _why_event(request: Asked, gateway: Gateway, text: str) -> ask.Why:
    """Raises Problem 400, 404; LogError."""
    if not (text.isascii() and text.isdigit() and len(text) <= DIGITS_MAX):
        raise Problem(400, "BAD_POSITION", f"`{text}` is no position of an event", "write event/NUMBER")
    position, end = int(text), (await gateway.log.head()).position
    if not 1 <= position <= end:
        said = f"there is no event {position}: the log holds events 1 to {end}" if end else "the log has no event yet"
        raise Problem(404, "NO_SUCH_EVENT", said, "name one of those (asvctl events tells them)")
    shown: Shown = partial(shown_to, request, gateway, "")
    found = [one for known in await reading.read_at(gateway.log, [position]) if (one := shown(known)) is not None]
    if not found:
        said = f"there is no event {position} that this token may see"
        raise Problem(404, "NO_SUCH_EVENT", said, "ask with a token that may see it")
    return await ask.why_event(gateway.log, _other(gateway, f"event/{position}"), found[0], shown)


async def _why_task(request: Asked, gateway: Gateway, id: str) -> ask.Why:
    """Raises Problem 404, LogError."""
    task = await gateway.task(request.user, id)
    try:
        since, _ = await position_of(Moment(at_us=task.started - 1), gateway.log)
    except ValueError:
        since = 0  # it began with the log
    shown: Shown = partial(shown_to, request, gateway, "")
    return await ask.why_task(gateway.log, _other(gateway, f"task/{id}"), id.removesuffix(f".{task.object}"), since, shown)


async def visible(request: Asked, gateway: Gateway, kind: str, name: str) -> None:
    """There is, or was, such an object, which the asker may see. Raises Problem 404, LogError."""
    if kind not in OBJECTS:
        raise Problem(404, "NO_SUCH_KIND", f"there is nothing of the kind `{kind}`", f"one of: {', '.join(OBJECTS)}")
    if kind == "node":
        await gateway.node(name)
    elif kind == "network":
        await gateway.network(name)
    elif kind in ("vm", "image", "backup"):
        of = "image" if kind == "image" else "vm"
        project = gateway.model.scopes.at(f"{of}-{name}", gateway.follower.position)
        if project is None or not request.user.sees(project):
            raise unknown(of, name)
    elif not await gateway.log.read_stream(f"{kind}-{name}", 0, 1):
        there = f"see what there is: asvctl {LISTED.get(kind, f'{kind} ls')}"
        raise Problem(404, "UNKNOWN", f"nothing is recorded of a {kind} `{name}`", there)


def shown_to(request: Asked, gateway: Gateway, vm: str, known: Known) -> Known | None:
    """The event as far as the asker sees it: of a decision about several VMs the part about this one (vm), else about those that
    they see."""
    scopes, event = gateway.model.scopes, known.event
    project = scopes.project_of(known.recorded, event)
    if project != SEVERAL or not touched(event):
        return known if request.user.sees(project) or isinstance(event, MemoryOrderReported) else None

    def told(name: str) -> bool:
        return name == (vm or name) and request.user.sees(scopes.at(f"vm-{name}", known.recorded.position) or SEVERAL)

    left = only(event, told, bool(vm))
    return None if left is None else known._replace(event=left)


@get("/v1/why-not/vm/{vm:str}", action=Action.READ, summary="Why a VM is not so", tags=["Why"])
async def why_not(
    request: Asked, gateway: NamedDependency[Gateway], vm: FromPath[str], node: NodeName = "", started: Started = False,
    reclaimed: Reclaimed = False,
) -> WhyNot:  # fmt: skip
    """One of `node`, `started` and `reclaimed`."""
    if (bool(node), started, reclaimed).count(True) != 1:
        remedy = "give one of node=NAME, started=true and reclaimed=true"
        raise Problem(400, "BAD_QUESTION", "one question at a time", remedy)
    found = await gateway.vm(request.user, vm)
    if node:
        await gateway.node(node)
    try:
        if reclaimed:
            return await _why_not_reclaimed(request, gateway, found)
        events = [reading.known(recorded) for recorded in await reading.read_newest(gateway.log, f"vm-{vm}")]
        refused = await reading.refusals(gateway.log, f"vm-{vm}")
    except LogError as error:
        raise away(f"the log cannot be read: {error}") from error
    if not node:
        return not_started(found, events, refused, gateway.model.guards.guard(vm))
    return not_on_node(found, node, events, refused, gateway.model.nodes.numbers.get(node, -1))


async def _why_not_reclaimed(request: Asked, gateway: Gateway, vm: Vm) -> WhyNot:
    """Raises LogError."""
    model = gateway.model
    ledger = model.ledgers.all.get(vm.node)
    own = await reading.read_at(gateway.log, model.reclaims.vms.get(vm.name, []))
    last = await reading.read_at(gateway.log, model.reclaims.nodes.get(vm.node, []))
    shown = (part for known in last if (part := shown_to(request, gateway, "", known)) is not None)
    mine = (part for known in own if (part := shown_to(request, gateway, vm.name, known)) is not None)
    return not_reclaimed(vm, ledger.vms.get(vm.name) if ledger else None, list(mine), list(shown))
