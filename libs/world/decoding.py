"""Registries that decode equal bytes once: in a world all services, the checks and all branches read the same events."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from libs.common.host.service import Service
from libs.common.messages import Hello, Recorded
from libs.common.registry import Registry
from proto.upcasts import UPCASTS

KNOWN_MAX = 50_000
_known: dict[tuple[str, int, bytes], Any] = {}


class SharedRegistry(Registry):
    """Events are frozen, so one object serves all who read it."""

    def event(self, recorded: Recorded) -> Any:
        key = (recorded.type, recorded.v, recorded.data)
        if recorded.type not in self.classes:
            return super().event(recorded)
        if (found := _known.get(key)) is None:
            if len(_known) >= KNOWN_MAX:
                _known.clear()
            found = _known[key] = super().event(recorded)
        return found

    def events(self, records: Sequence[Recorded]) -> list[Any]:
        return [self.event(recorded) if recorded.type in self.classes else None for recorded in records]


_made: dict[int, tuple[Service, tuple[Registry, Registry]]] = {}


def registries(service: Service) -> tuple[Registry, Registry]:
    """Of its commands and of the events that it reads; made once."""
    if (made := _made.get(id(service))) is None:
        made = _made[id(service)] = (service, _registries(service))
    return made[1]


def _registries(service: Service) -> tuple[Registry, Registry]:
    commands = [command for decider in service.deciders for command in decider.commands]
    events = [event for decider in service.deciders for event in decider.events]
    return Registry([*commands, Hello]), SharedRegistry([*events, *service.follows], UPCASTS)
