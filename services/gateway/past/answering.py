"""A gateway that answers from a past state: the same handlers read its views. What only the present can say (consoles, rates,
what a service or a node is asked) is refused with a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from libs.common.log import EventLog, Head
from libs.common.messages import Recorded
from services.gateway.gateway import Gateway
from services.gateway.model import ReadModel
from services.gateway.past.model import PastModel
from services.gateway.past.moment import said
from services.gateway.past.source import Readable
from services.gateway.problems import Problem

if TYPE_CHECKING:
    from services.gateway.beats import Beats
    from services.gateway.follow import Follower

POSITION_HEADER, TIME_HEADER = "Asv-At-Position", "Asv-At-Time"


def live_only(at_us: int, remedy: str = "ask without a moment of the past") -> Problem:
    when = said(at_us) if at_us else "a past position"
    text = f"this asks what is so now: nobody recorded it, so that it cannot be said of {when}"
    return Problem(409, "LIVE_ONLY", text, remedy)


class _Silent:
    """In place of the bus and of what was heard on it."""

    def __init__(self, at_us: int) -> None:
        self._at_us = at_us

    def __getattr__(self, name: str) -> Any:
        raise live_only(self._at_us)


class _PastBeats(_Silent):
    """Heartbeats are not recorded. A node counts as online that was not lost by what was."""

    def __init__(self, at_us: int, model: ReadModel) -> None:
        super().__init__(at_us)
        self._model = model

    def online(self, node: str) -> bool:
        known = self._model.ha.nodes.get(node)
        return node in self._model.nodes.all and (known is None or known.standing in ("", "trusted"))

    def memory(self, node: str) -> None:
        return None

    def pools(self, node: str) -> tuple[()]:
        return ()

    def copies(self) -> tuple[()]:
        return ()


class _PastLog:
    """The log up to a position."""

    def __init__(self, log: Readable, model: PastModel) -> None:
        self._log, self._end, self._at_us = log, model.position, model.at_us

    def __getattr__(self, name: str) -> Any:
        raise live_only(self._at_us)

    async def head(self) -> Head:
        return Head(self._end, (await self._log.head()).incarnation, self._at_us)

    async def read_stream(self, stream: str, after: int = 0, limit: int = 1000) -> list[Recorded]:
        return [row for row in await self._log.read_stream(stream, after, limit) if row.position <= self._end]

    async def read_all(self, after: int, limit: int = 1000) -> list[Recorded]:
        return await self._log.read_all(after, min(limit, self._end - after)) if after < self._end else []

    async def eventless(self, stream: str, limit: int = 100) -> list[Any]:
        """The newest up to then, however many came since."""
        asked = limit
        while True:
            rows = await self._log.eventless(stream, asked)
            found = [one for one in rows if one.at_us <= self._at_us]
            if len(found) >= limit or len(rows) < asked:
                return found[:limit]
            asked *= 4


class _PastFollower:
    def __init__(self, log: _PastLog, model: ReadModel) -> None:
        self.log, self.model = log, model

    @property
    def position(self) -> int:
        return self.model.position

    async def catch_up(self) -> None:
        """It is where it stays."""

    async def since(self, after: int, limit: int) -> Sequence[Recorded]:
        return await self.log.read_all(after, limit)


def past_of(now: Gateway, model: PastModel) -> Gateway:
    """It changes nothing and asks nobody."""
    log, read = _PastLog(now.pasts.log, model), model.as_read()
    silent: Any = _Silent(model.at_us)
    return replace(
        now, log=cast("EventLog", log), bus=silent, commands=silent, consoles=silent, uploads=silent,
        beats=cast("Beats", _PastBeats(model.at_us, read)), follower=cast("Follower", _PastFollower(log, read)), past=model,
    )  # fmt: skip
