"""What every handler works with: one object, made in app.py, without anything of HTTP in it."""

from __future__ import annotations

from dataclasses import dataclass, field

from libs.common.blobs import BlobStore
from libs.common.bus import Bus
from libs.common.clock import Clock
from libs.common.log import EventLog, LogError
from libs.common.messages import decode_reply
from libs.common.secrets import SecretStore
from services.gateway.auth import Principal
from services.gateway.beats import Beats
from services.gateway.commands import Commands
from services.gateway.console import Consoles
from services.gateway.follow import Follower
from services.gateway.join import Issuer
from services.gateway.model import ReadModel
from services.gateway.past.model import PastModel
from services.gateway.past.pasts import Pasts
from services.gateway.problems import Problem, away, unknown
from services.gateway.recovering import refused_start
from services.gateway.tasks import Task
from services.gateway.tasks.backups import RECOVER
from services.gateway.tokens import Keyring, StoreAway
from services.gateway.uploads import Uploads
from services.gateway.views.images import Image
from services.gateway.views.networks import NetworkShown
from services.gateway.views.nodes import Node
from services.gateway.views.vms import Vm

AWAIT_US_MAX = 60_000_000
"""after which a command that was to follow another, and is not recorded, will not come any more"""
DEFAULT_PROJECT = "default"


@dataclass(slots=True)
class Gateway:
    """name: the cluster's; nats_url: where agents are told to connect; secrets: None where no key file was named."""

    log: EventLog
    bus: Bus
    clock: Clock
    keyring: Keyring
    follower: Follower
    commands: Commands
    beats: Beats
    consoles: Consoles
    uploads: Uploads
    blobs: BlobStore
    issuer: Issuer | None = None
    secrets: SecretStore | None = None
    name: str = "asv"
    nats_url: str = ""
    pasts: Pasts = field(kw_only=True)
    past: PastModel | None = None
    """the state that it answers from, where that is not the one of now (past/answering.py)"""

    @property
    def model(self) -> ReadModel:
        return self.follower.model

    async def vm(self, who: Principal, name: str) -> Vm:
        """The VM, if there is one that this principal may see. Raises Problem 404."""
        found = self.model.vms.all.get(name) or (await self._fresh()).vms.all.get(name)
        if found is None or not who.sees(found.project):
            raise unknown("vm", name)
        return found

    async def catalogue(self, who: Principal, vm: str) -> str:
        """The project of a VM that there is, or of which there are backups still. Raises Problem 404."""
        project = _of_catalogue(self.model, vm)
        if project is None:
            project = _of_catalogue(await self._fresh(), vm)
        if project is None or not who.sees(project):
            raise unknown("vm", vm)
        return project

    async def image(self, who: Principal, name: str) -> Image:
        """As for a VM."""
        found = self.model.images.all.get(name) or (await self._fresh()).images.all.get(name)
        if found is None or not who.sees(found.project):
            raise unknown("image", name)
        return found

    async def node(self, name: str) -> Node:
        """Raises Problem 404."""
        found = self.model.nodes.all.get(name) or (await self._fresh()).nodes.all.get(name)
        if found is None:
            raise unknown("node", name)
        return found

    async def network(self, name: str) -> NetworkShown:
        """Raises Problem 404."""
        found = self.model.networks.all.get(name) or (await self._fresh()).networks.all.get(name)
        if found is None:
            raise unknown("network", name)
        return found

    async def still(self, who: Principal) -> bool:
        """Is the token good that opened a stream? While the tokens cannot be read, the benefit of the doubt."""
        try:
            return await self.keyring.still(who, self.clock.now_us())
        except StoreAway:
            return who.expires_us == 0 or self.clock.now_us() < who.expires_us

    def unchanged(self, id: str, kind: str, object: str, project: str, sentence: str) -> None:
        """A command was accepted and nothing had to change: its task ends here, for no event will end it."""
        if id not in self.model.tasks.all:
            self.model.tasks.unchanged(id, kind, object, project, self.clock.now_us(), sentence)

    async def task(self, who: Principal, id: str) -> Task:
        """The task, with what the log says of a command that it awaits. Raises Problem 404."""
        found = self.model.tasks.all.get(id) or (await self._fresh()).tasks.all.get(id)
        if found is None or not who.sees(found.project):
            raise unknown("task", id)
        if found.awaits:
            await self.settle(found)
        if found.kind == RECOVER and found.state == "running":
            await self._settle_recovery(found)
        return found

    async def settle(self, task: Task) -> None:
        """End a task whose next command was refused, or was never sent (its gateway was killed in between). Of the past nothing is
        settled."""
        if self.past is not None:
            return
        try:
            decided = await self.log.command(task.awaits)
        except LogError as error:
            raise away(f"the log cannot be read: {error}") from error
        now_us = self.clock.now_us()
        if decided is not None and (reply := decode_reply(decided.outcome)).status != "accepted":
            self.model.tasks.finish(task, "failed", f"not started: {reply.sentence}", now_us)
        elif decided is None and now_us - task.started > AWAIT_US_MAX and task.awaits:
            self.model.tasks.finish(task, "failed", "the start was never asked for; start it by hand", now_us)

    async def _settle_recovery(self, task: Task) -> None:
        """End the task of a recovery whose start was refused: no event tells of it."""
        one = self.model.recoveries.of_target(task.object)
        if self.past is not None or one is None or one.task != task.id.removesuffix(f".{task.object}"):
            return
        try:
            said = await refused_start(self.log, one)
        except LogError as error:
            raise away(f"the log cannot be read: {error}") from error
        if said:
            sentence = f"{one.target} is made, and waits for its start: {said}"
            self.model.tasks.finish(task, "failed", sentence, self.clock.now_us())

    async def _fresh(self) -> ReadModel:
        """The views with all that the log holds: asked for before anyone is told that something does not exist."""
        try:
            await self.follower.catch_up()
        except LogError as error:
            raise away(f"the log cannot be read: {error}") from error
        return self.model


def _of_catalogue(model: ReadModel, vm: str) -> str | None:
    if (found := model.vms.all.get(vm)) is not None:
        return found.project
    return next((one.project for one in model.backups.of(vm)), None)


def name_is_free(gateway: Gateway, name: str, project: str) -> None:
    """A name stays with the project that used it first: its stream does, and what was recorded in it. Raises Problem 409."""
    owner = gateway.model.scopes.at(f"vm-{name}", gateway.model.position)
    if owner is not None and owner != project:
        raise Problem(409, "NAME_TAKEN", f"the name `{name}` belongs to another project", "take another name")


def in_project(who: Principal, wanted: str) -> str:
    """The project that a new object goes to: the one asked for, else the only one of the token, else `default`."""
    project = wanted
    if not project:
        project = who.projects[0] if len(who.projects) == 1 and not who.all_projects else DEFAULT_PROJECT
    if not who.sees(project):
        text = f"the token `{who.name}` is not for the project `{project}`"
        raise Problem(403, "WRONG_PROJECT", text, f"its projects: {', '.join(who.projects)}")
    return project
