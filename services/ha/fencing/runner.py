"""The executor beside ha in its process: it acts where the grantor of this process leads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from libs.common.host.beside import Place
from libs.common.secret_store import OwnSecrets
from services.ha.fencing.executor import Executor
from services.ha.fencing.kinds import Kinds


class FencingRunner:
    def __init__(self, place: Place, leads: Callable[[], bool]) -> None:
        self._secrets = OwnSecrets(place.dsn, place.secrets_key) if place.secrets_key is not None else None
        self._task: asyncio.Task[None] | None = None
        self.executor = Executor(
            fences=lambda: place.runner.host.views.fences.fences,
            waiting=lambda: place.runner.host.views.fences.waiting, say=place.runner.say, open=Kinds().open,
            secrets=self._secrets, clock=place.clock, leads=leads,
        )  # fmt: skip

    async def start(self) -> None:
        self._task = asyncio.create_task(self.executor.run(), name="fencing")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._secrets is not None:
            await self._secrets.close()
