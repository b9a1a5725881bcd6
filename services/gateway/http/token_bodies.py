"""The JSON bodies about tokens."""

from __future__ import annotations

from typing import Annotated

import msgspec

from services.gateway.auth import Role, Scope
from services.gateway.http.bodies import Body

Person = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$", max_length=64)]
EXPIRES_S_MAX = 10 * 366 * 86_400


class NewToken(Body):
    """expires_s: seconds from now; 0: never. projects: `*` for all."""

    name: Person
    role: Role = Role.VIEWER
    projects: Annotated[list[Scope], msgspec.Meta(min_length=1, max_length=100)] = msgspec.field(
        default_factory=lambda: ["*"]
    )
    expires_s: Annotated[int, msgspec.Meta(ge=0, le=EXPIRES_S_MAX)] = 0


class NewJoinToken(Body):
    """expires_s: seconds from now."""

    expires_s: Annotated[int, msgspec.Meta(ge=1, le=7 * 86_400)] = 3600


class Token(msgspec.Struct):
    """A token without its secret. expires_us: microseconds since the epoch, 0 for never."""

    id: str
    name: str
    role: Role
    projects: tuple[str, ...]
    expires_us: int
    revoked: bool


class TokenMade(msgspec.Struct):
    """token: the secret, shown this once."""

    token: str
    expires_us: int
    id: str = ""
    name: str = ""
    role: str = "join"
    projects: tuple[str, ...] = ()


class Tokens(msgspec.Struct):
    items: list[Token]
