"""What a kind of step is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from libs.world.story import Step

if TYPE_CHECKING:
    from libs.world.world import World

type Way = Callable[[World, Step], None]

SECOND_US = 1_000_000


@dataclass(frozen=True, slots=True)
class Kind:
    """who: what it befalls ("node", "vm", "service", "process": a node's or a service, "pool", "device": a node's fence device, or
    "": nobody). breaks: what it is of, for coverage. out: how it is undone; None: it cannot be, or undoes itself. more: what
    `more` may name."""

    who: str
    breaks: str
    begin: Way
    out: Way | None = None
    more: tuple[str, ...] = ()
