"""Which nodes reach which pools, and which of them is asked. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

SILENCE_US_MAX = 5_000_000
"""A node not heard for longer is asked only where no other can be."""


class Node(Protocol):
    """pool_ids: name of a pool -> which one it is there, where that is known; heard_us: when it was heard last, 0: never."""

    pools: tuple[str, ...]
    pool_ids: dict[str, str]
    heard_us: int


def reaching(nodes: Mapping[str, Node], pools: Mapping[str, str]) -> tuple[str, ...]:
    """Those that have all these pools (name -> Disk.pool_id; empty: whichever of that name), in order."""
    able = (
        name
        for name, node in nodes.items()
        if all(pool in node.pools and id in ("", node.pool_ids.get(pool, id)) for pool, id in pools.items())
    )
    return tuple(sorted(able))


def chosen(able: Sequence[str], nodes: Mapping[str, Node], now_us: int, wanted: str = "") -> str:
    """One that was heard lately, else any: the wanted one, where it is among those, else by name. Empty where there is none."""
    heard = [n for n in able if nodes[n].heard_us and now_us - nodes[n].heard_us <= SILENCE_US_MAX]
    among = heard or able
    return wanted if wanted in among else among[0] if among else ""
