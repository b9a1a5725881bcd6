"""What runs beside io in its process."""

from __future__ import annotations

from collections.abc import Sequence

from libs.common.host.beside import Companion, Place
from services.io.agent_asker import AgentAsker
from services.io.asker import DrillAsker


def beside(place: Place) -> Sequence[Companion]:
    return [DrillAsker(place), AgentAsker(place)]
