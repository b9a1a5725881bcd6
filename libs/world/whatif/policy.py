"""A policy that is tried: a small TOML file of what can be set (docs/what-if.md has an example).

    [ha]                      as `asvctl ha set`
    lost_max = 1
    [placement]               as `asvctl cluster set`; classes, nodes: tables of their own
    weights = "pack"
    [memory]                  each node's memory policy, as `asvctl memory policy`; [memory-on.n1]: of that node alone
    ratio_pct = 120
    [guard.web-1]             a VM's guard
    mode = "off"
    [balance]                 the rebalancer
    mode = "auto"
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from libs.common.messages import Command
from libs.world.fork.slices import CannotFork
from proto.balance import SetBalance
from proto.cluster import SetPlacement
from proto.guard import SetGuard
from proto.ladder import MemoryPolicy
from proto.lease import SetHa


@dataclass(frozen=True, slots=True)
class Setting:
    """What is asked of a service's stream. Of memory: of each node (stream empty) or that one, what is named of its policy."""

    service: str
    stream: str
    ask: Command | MemoryPolicy
    named: tuple[str, ...] = ()


FILLED = frozenset({"uses", "defined", "why_not", "unknown", "circle"})
"""fields that services fill in themselves"""
ONE: dict[str, tuple[str, str, type[Command], frozenset[str]]] = {
    "ha": ("ha", "ha-main", SetHa, FILLED | {"nodes"}),
    "placement": ("compute", "cluster-main", SetPlacement, FILLED),
    "balance": ("compute", "balance-cluster", SetBalance, FILLED),
}
TABLES = ("ha", "placement", "balance", "memory", "memory-on.NODE", "guard.VM")


def settings(text: str, where: str) -> list[Setting]:
    """Raises CannotFork."""
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as bad:
        raise CannotFork(f"{where}: {bad}") from bad
    found = [setting for name, table in tables.items() for setting in _table(name, table, where)]
    if not found:
        raise CannotFork(f"{where} sets nothing: there are the tables {', '.join(TABLES)}")
    return found


def _table(name: str, table: Any, where: str) -> Iterator[Setting]:
    if not isinstance(table, dict) or name not in (*ONE, "memory", "memory-on", "guard"):
        raise CannotFork(f"{where}: there is no policy `{name}`: there are the tables {', '.join(TABLES)}")
    if name in ONE:
        service, stream, command, filled = ONE[name]
        yield Setting(service, stream, _read(command, table, f"{where}: {name}", filled))
    elif name == "memory":
        yield Setting("memory", "", _read(MemoryPolicy, table, f"{where}: {name}"), tuple(table))
    for whose, inner in table.items() if name in ("memory-on", "guard") else ():
        said = f"{where}: {name}.{whose}"
        if not isinstance(inner, dict):
            raise CannotFork(f"{said} is no table: write [{name}.NAME]")
        if name == "memory-on":
            yield Setting("memory", whose, _read(MemoryPolicy, inner, said), tuple(inner))
        else:
            yield Setting("ha", f"guard-{whose}", _read(SetGuard, {**inner, "vm": whose}, said))


def _read[T: msgspec.Struct](kind: type[T], table: Mapping[str, Any], where: str, filled: frozenset[str] = FILLED) -> T:
    may = [name for name in kind.__struct_fields__ if name not in filled]
    if unknown := sorted(set(table) - set(may)):
        raise CannotFork(f"{where} has no `{unknown[0]}`: there are {', '.join(name for name in may if name != 'vm')}")
    try:
        return msgspec.convert(dict(table), kind, strict=False)
    except msgspec.ValidationError as bad:
        raise CannotFork(f"{where}: {bad}") from bad
