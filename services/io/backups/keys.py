"""By which key a backup is encrypted, and which nodes have it. The keys themselves are the nodes' (docs/backup-keys.md). Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from libs.common.decider import Refused
from proto.io import Refusal
from services.io.backups.chain import NAMES_MAX
from services.io.reach import Node, reaching

GIVE = "asvctl backup key give FILE"


class Keeper(Node, Protocol):
    """keys: that it says it has."""

    keys: tuple[str, ...]


class Kept(Protocol):
    """A backup: where it lies, and by which key it is encrypted; empty: it is not."""

    pool: str
    pool_id: str
    key: str


def by_key(nodes: Mapping[str, Keeper]) -> dict[str, tuple[str, ...]]:
    """Of each key, the nodes that have it, in order."""
    found: dict[str, list[str]] = {}
    for name in sorted(nodes):
        for key in nodes[name].keys:
            found.setdefault(key, []).append(name)
    return {key: tuple(found[key]) for key in sorted(found)}


def able(nodes: Mapping[str, Keeper], one: Kept) -> tuple[str, ...]:
    """Those that reach it and can read it."""
    return tuple(node for node in reaching(nodes, {one.pool: one.pool_id}) if not one.key or one.key in nodes[node].keys)


def called(word: str, keys: Iterable[str]) -> tuple[str, ...]:
    """Those of that name or id; of all, where nothing is said."""
    return tuple(sorted(id for id in keys if word in ("", id, id.rpartition("-")[0])))


def chosen(word: str, keys: Mapping[str, Sequence[str]]) -> str:
    """Its id. Raises Refused: KEY_UNKNOWN."""
    found = called(word, keys)
    if len(found) == 1:
        return found[0]
    there = listed(sorted(keys))
    if found:
        said = f"there are {len(found)} keys" + (f" named {word}" if word else "") + f": {listed(found)}"
        raise Refused(Refusal.KEY_UNKNOWN, said, f"say which: --key {found[0]}")
    said = f"no node has a key {word}; there are: {there}" if word and keys else "no node has a key of backups"
    raise Refused(Refusal.KEY_UNKNOWN, said, f"make one: asvctl backup key new {word or 'main'}; or give one that you have: {GIVE}")


def check(key: str, node: str, vm: str, keys: Mapping[str, Sequence[str]]) -> None:
    """That node is to write by it. Raises Refused: NO_KEY."""
    having = keys.get(key, ())
    if not key or node in having:
        return
    said = f"{node}, where {vm} is, does not have the key {key}; {listed(having)} has"
    raise Refused(Refusal.NO_KEY, said, f"give it to {node}: {GIVE} --node {node}")


def missing(one: str, key: str, nodes: Sequence[str]) -> Refused:
    """None of the nodes that reach a backup can read it."""
    said = f"the backup {one} is encrypted by the key {key}, which none of the nodes that reach it has: {listed(nodes)}"
    return Refused(Refusal.NO_KEY, said, f"give it to one of them: {GIVE} --node {nodes[0] if nodes else 'NODE'}")


def listed(words: Sequence[str]) -> str:
    more = f" and {len(words) - NAMES_MAX} more" if len(words) > NAMES_MAX else ""
    return (", ".join(words[:NAMES_MAX]) or "none") + more
