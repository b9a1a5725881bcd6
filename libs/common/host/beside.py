"""What runs beside a service in its process, and is no part of its stepper: services/<name>/beside.py gives it.

    def beside(place: Place) -> Sequence[Companion]: ...
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from libs.common.bus import Bus
from libs.common.clock import Clock
from libs.common.host.driver import Runner


@dataclass(frozen=True, slots=True)
class Place:
    """Where it is to work. dsn: of the log's database; name: of the process; secrets_key: the key file, where one was named."""

    runner: Runner
    bus: Bus
    clock: Clock
    dsn: str
    name: str
    secrets_key: Path | None = None


class Companion(Protocol):
    async def start(self) -> None:
        """Once the service is folded and serves."""
        ...

    async def stop(self) -> None:
        """Before the service stops."""
        ...
