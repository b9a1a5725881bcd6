"""/v1/backup-keys: the keys by which backups are encrypted. A key is sealed by whoever asks, for each node alone: neither this
gateway nor the bus nor the log can read it. Which nodes have which is what they say of themselves."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Coroutine
from typing import Annotated, Any

import msgspec
from litestar import Router, delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, JSONBody

from libs.common.messages import Name
from proto.backup_keys import AskKey, KeyAnswer
from services.gateway.asking import ask_node
from services.gateway.auth import Action
from services.gateway.gateway import Gateway
from services.gateway.http.bodies import Body
from services.gateway.http.door import Asked
from services.gateway.problems import Problem

ASK_S = 10.0
NODES_MAX = 1000
SEALED_CHARS_MAX = 4096
Sealed = Annotated[str, msgspec.Meta(max_length=SEALED_CHARS_MAX)]
Key = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,30}-[0-9a-f]{16}$")]


class KeyShown(msgspec.Struct):
    """nodes: that have it; backups: of VMs that the asker sees, encrypted by it."""

    id: str
    nodes: list[str]
    backups: int = 0


class KeyNode(msgspec.Struct):
    """seal: the public key by which a key is sealed for it, in base64 (X25519); empty: it has told none."""

    node: str
    seal: str
    online: bool


class Keys(msgspec.Struct):
    items: list[KeyShown]
    nodes: list[KeyNode]


class GiveBody(Body):
    """sealed: by node, in base64."""

    id: Key
    sealed: Annotated[dict[Name, Sealed], msgspec.Meta(min_length=1, max_length=NODES_MAX)]


class KeyTold(msgspec.Struct):
    """error: why it is not as asked; empty: it is."""

    node: str
    error: str = ""


class KeysTold(msgspec.Struct):
    id: str
    items: list[KeyTold]


def having(gateway: Gateway) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, node in sorted(gateway.model.nodes.all.items()):
        for key in node.capabilities.backup_keys if node.capabilities is not None else ():
            found.setdefault(key, []).append(name)
    return found


@get("", action=Action.READ, summary="List the keys of backups")
async def list_backup_keys(request: Asked, gateway: NamedDependency[Gateway]) -> Keys:
    """Those that a node has, and those of which there are backups and that none has any more."""
    counts: dict[str, int] = {}
    for backups in gateway.model.backups.all.values():
        for one in backups:
            if one.key and request.user.sees(one.project):
                counts[one.key] = counts.get(one.key, 0) + 1
    nodes = having(gateway)
    items = [KeyShown(key, nodes.get(key, []), counts.get(key, 0)) for key in sorted(nodes.keys() | counts.keys())]
    can = {name: node.capabilities for name, node in sorted(gateway.model.nodes.all.items())}
    online = gateway.beats.online
    return Keys(items, [KeyNode(name, one.move_key if one is not None else "", online(name)) for name, one in can.items()])


@post("", action=Action.BACKUP_KEYS, status_code=200, summary="Give a key of backups to nodes")
async def give_backup_key(request: Asked, gateway: NamedDependency[Gateway], data: JSONBody[GiveBody]) -> KeysTold:
    """Sealed for each of them (libsodium's sealed box). Never recorded; that a node has it is. Said again it changes nothing."""
    asks = {}
    for name, text in data.sealed.items():
        await gateway.node(name)
        try:
            asks[name] = AskKey(sealed=base64.b64decode(text, validate=True))
        except (binascii.Error, ValueError) as error:
            raise Problem(400, "BAD_BODY", f"sealed[{name}]: {error}", "send base64 text", field="sealed") from None
    return await _told(gateway, data.id, asks)


@delete("/{key:str}", action=Action.BACKUP_KEYS, status_code=200, summary="Let nodes forget a key of backups")
async def drop_backup_key(
    request: Asked, gateway: NamedDependency[Gateway], key: FromPath[str], node: FromQuery[str] = "", lose: FromQuery[str] = ""
) -> KeysTold:
    """node: only that one. Backups that are encrypted by it are of no use without it: where there are some and no other node has
    it, it has to be named (lose)."""
    there = having(gateway).get(key, [])
    if not there:
        raise Problem(404, "KEY_UNKNOWN", f"no node has a key `{key}`", "see asvctl backup key ls")
    if node and node not in there:
        raise Problem(404, "KEY_UNKNOWN", f"{node} does not have the key {key}; {', '.join(there)} has", "name one that has it")
    count = sum(one.key == key for backups in gateway.model.backups.all.values() for one in backups)
    if count and lose != key and (not node or there == [node]):
        said = f"{count} backups are encrypted by {key}, and can never be read without it"
        raise Problem(409, "KEY_IN_USE", said, f"delete them first; or, where the key's file is kept elsewhere: --lose {key}")
    return await _told(gateway, key, {name: AskKey(forget=key) for name in ([node] if node else there)})


async def _told(gateway: Gateway, key: str, asks: dict[str, AskKey]) -> KeysTold:
    calls: list[Coroutine[Any, Any, KeyTold]] = [_tell(gateway, key, node, ask) for node, ask in sorted(asks.items())]
    return KeysTold(key, list(await asyncio.gather(*calls)))


async def _tell(gateway: Gateway, key: str, node: str, ask: AskKey) -> KeyTold:
    try:
        answer = await ask_node(gateway.bus, node, "key", KeyAnswer, ask, ASK_S)
    except Problem as problem:
        return KeyTold(node, problem.body.detail)
    if answer.error:
        return KeyTold(node, answer.error)
    return KeyTold(node, "" if answer.key == key else f"what was sealed for it is the key {answer.key}")


router = Router(
    "/v1/backup-keys", route_handlers=[list_backup_keys, give_backup_key, drop_backup_key], tags=["Backups"]
)
