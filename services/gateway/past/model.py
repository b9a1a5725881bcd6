"""The gateway's views at one past position, each made when it is first looked at: decoded from the kept snapshot before, and folded
over the events since. What nobody asks for costs nothing. Pure.

A view that looks at another while it folds goes together with it (`reclaims` at the VMs of that moment), or is told what it needs
from
the other's end (`tasks` of scopes, which know what was when). That each is as in a ReadModel that took every event is tested at
every position (tests/model/test_past_model.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from libs.common.loop import undisturbed
from libs.common.messages import Recorded
from services.gateway.past import kept
from services.gateway.tasks.stories import tell

if TYPE_CHECKING:
    from services.gateway.model import ReadModel

type Tail = Sequence[tuple[Recorded, Any]]
"""events with what they say, of types that are known"""


class PastModel:
    """Reads like a ReadModel that took the log up to `position`. parts: of the kept snapshot, compressed, none for the beginning;
    tail: the events since."""

    def __init__(self, position: int, at_us: int, parts: Mapping[str, bytes], tail: Tail) -> None:
        self.position = position
        self.at_us = at_us
        self._parts = parts
        self._tail = tail

    def __getattr__(self, name: str) -> Any:
        """A view, which stays."""
        if name not in kept.PARTS:
            raise AttributeError(name)
        with undisturbed():
            self._make(name)
        return self.__dict__[name]

    def _make(self, name: str) -> None:
        view = kept.view(name, self._parts)
        if name in ("vms", "reclaims"):
            self._make_vms()
        elif name == "tasks":
            scopes = self.scopes
            for recorded, event in self._tail:
                tell(view, recorded, event, scopes.project_of(recorded, event))
            self.tasks = view
        else:
            for recorded, event in self._tail:
                view.apply(recorded, event)
            self.__dict__[name] = view

    def _make_vms(self) -> None:
        vms, reclaims = kept.view("vms", self._parts), kept.view("reclaims", self._parts)
        for recorded, event in self._tail:
            vms.apply(recorded, event)
            reclaims.apply(recorded, event, vms.all)
        self.vms, self.reclaims = vms, reclaims

    def as_read(self) -> ReadModel:
        """It has all that a ReadModel has."""
        return self  # type: ignore[return-value]  # the same names, made when they are looked at
