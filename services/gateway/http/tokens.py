"""/v1/tokens: who may come in. Secrets are shown once, when they are made."""

from __future__ import annotations

from litestar import Router, delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from services.gateway.auth import Action, Role
from services.gateway.gateway import Gateway
from services.gateway.http.door import Asked
from services.gateway.http.token_bodies import NewJoinToken, NewToken, Token, TokenMade, Tokens
from services.gateway.problems import Problem, unknown
from services.gateway.tokens import TokenRow, new_join_token, new_token


def _shown(row: TokenRow) -> Token:
    return Token(row.id, row.name, row.role, row.projects, row.expires_us, row.revoked)


@get("", action=Action.TOKENS, live=True, summary="List tokens")
async def list_tokens(request: Asked, gateway: NamedDependency[Gateway]) -> Tokens:
    """Those for projects of the asking token."""
    rows = await gateway.keyring.store.rows()
    return Tokens([_shown(row) for row in rows if request.user.covers(row.projects)])


@post("", action=Action.TOKENS, status_code=201, summary="Make a token")
async def make_token(request: Asked, gateway: NamedDependency[Gateway], data: JSONBody[NewToken]) -> TokenMade:
    projects = tuple(dict.fromkeys(data.projects))
    if not request.user.covers(projects):
        text = f"`{request.user.name}` is for {', '.join(request.user.projects)} and cannot give more than that"
        raise Problem(403, "NOT_PERMITTED", text, "name only projects of your own token")
    expires_us = gateway.clock.now_us() + data.expires_s * 1_000_000 if data.expires_s else 0
    if request.user.expires_us and not 0 < expires_us <= request.user.expires_us:
        text = "a token that expires cannot make one that lasts longer"
        raise Problem(403, "NOT_PERMITTED", text, "give a shorter expires_s, or ask an admin whose token lasts")
    row, token = new_token(data.name, data.role, projects, expires_us)
    await gateway.keyring.store.add(row)
    return TokenMade(token, expires_us, row.id, row.name, row.role, row.projects)


@delete("/{id:str}", action=Action.TOKENS, status_code=204, summary="Revoke a token")
async def revoke_token(request: Asked, gateway: NamedDependency[Gateway], id: FromPath[str]) -> None:
    rows = await gateway.keyring.store.rows()
    row = next((row for row in rows if row.id == id), None)
    if row is None or not request.user.covers(row.projects):
        raise unknown("token", id)
    now_us = gateway.clock.now_us()
    admins = [r for r in rows if r.role is Role.ADMIN and "*" in r.projects and r.valid(now_us) and r.id != id]
    if not admins:
        raise Problem(409, "LAST_ADMIN", "this is the last admin token of the cluster", "make another one first")
    await gateway.keyring.store.revoke(id)
    gateway.keyring.forget(id)


@post("/join", action=Action.NODES, status_code=201, summary="Make a one-time token for a node to join with")
async def make_join_token(gateway: NamedDependency[Gateway], data: JSONBody[NewJoinToken | None] = None) -> TokenMade:
    expires_s = (data or NewJoinToken()).expires_s
    expires_us = gateway.clock.now_us() + expires_s * 1_000_000
    hash, token = new_join_token()
    await gateway.keyring.store.add_join(hash, expires_us)
    return TokenMade(token, expires_us)


router = Router("/v1/tokens", route_handlers=[list_tokens, make_token, revoke_token, make_join_token], tags=["Tokens"])
