"""Who may do what: roles, actions, projects. Pure; the tokens themselves lie in a TokenStore (tokens.py)."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec

from services.gateway.scopes import CLUSTER

ALL_PROJECTS = "*"


class Role(StrEnum):
    """Each may do all that the one before may."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"


class Action(StrEnum):
    """What a call does, as far as permission is concerned."""

    READ = "read"
    OPERATE = "operate"
    EXEC = "exec"
    CONSOLE = "console"
    SCREENSHOT = "screenshot"
    TRANSLATE = "address-translation"
    EXPORT = "export"
    IMAGES = "images"
    NODES = "nodes"
    TOKENS = "tokens"
    FINALIZE = "finalize"
    BALANCE = "balance"
    PLACEMENT = "placement"
    NETWORKS = "networks"
    POOLS = "pools"
    FENCES = "fences"
    HA = "high-availability"
    DIGESTS = "digests"
    BACKUP_KEYS = "backup-keys"


LEAST: dict[Action, Role] = {
    Action.READ: Role.VIEWER,
    Action.OPERATE: Role.OPERATOR,
    Action.EXEC: Role.OPERATOR,
    Action.CONSOLE: Role.OPERATOR,
    Action.SCREENSHOT: Role.OPERATOR,
    Action.TRANSLATE: Role.OPERATOR,
    Action.EXPORT: Role.OPERATOR,
    Action.IMAGES: Role.OPERATOR,
    Action.NODES: Role.ADMIN,
    Action.TOKENS: Role.ADMIN,
    Action.FINALIZE: Role.ADMIN,
    Action.BALANCE: Role.ADMIN,
    Action.PLACEMENT: Role.ADMIN,
    Action.NETWORKS: Role.ADMIN,
    Action.POOLS: Role.ADMIN,
    Action.FENCES: Role.ADMIN,
    Action.HA: Role.ADMIN,
    Action.DIGESTS: Role.ADMIN,
    Action.BACKUP_KEYS: Role.ADMIN,
}
"""The least role for each action."""

CLUSTER_WIDE = frozenset(
    {
        *(Action.NODES, Action.FINALIZE, Action.BALANCE, Action.PLACEMENT, Action.NETWORKS, Action.POOLS, Action.FENCES),
        *(Action.HA, Action.DIGESTS, Action.BACKUP_KEYS),
    }
)
"""Actions on what belongs to no project: the token must be good for all projects."""

_RANK = {role: rank for rank, role in enumerate(Role)}

ProjectName = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$", max_length=63)]
Scope = Annotated[str, msgspec.Meta(pattern=r"^(\*|[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)$", max_length=63)]


class Principal(msgspec.Struct, frozen=True):
    """Who a valid token stands for. expires_us: 0 for never."""

    id: str
    name: str
    role: Role
    projects: tuple[str, ...]
    expires_us: int = 0

    @property
    def actor(self) -> str:
        return f"user:{self.name}"

    @property
    def all_projects(self) -> bool:
        return ALL_PROJECTS in self.projects

    def sees(self, project: str) -> bool:
        """Objects of that project; what belongs to the cluster is seen by all."""
        return project == CLUSTER or self.all_projects or project in self.projects

    def covers(self, projects: tuple[str, ...]) -> bool:
        """May hand out rights to these projects."""
        return self.all_projects or set(projects) <= set(self.projects)

    def why_not(self, action: Action) -> str:
        """Empty when the action is allowed, else a sentence."""
        least = LEAST[action]
        if _RANK[self.role] < _RANK[least]:
            return f"{action} needs the role {least}; the token `{self.name}` has {self.role}"
        if action in CLUSTER_WIDE and not self.all_projects:
            return f"{action} needs a token for all projects (*); `{self.name}` is for {', '.join(self.projects)}"
        return ""
