"""What runs beside ha in its process."""

from __future__ import annotations

from collections.abc import Sequence

from libs.common.host.beside import Companion, Place
from libs.common.log.lock import SessionLock
from services.ha.fencing.runner import FencingRunner
from services.ha.runner import LOCK, GrantorRunner


def beside(place: Place) -> Sequence[Companion]:
    grantor = GrantorRunner(place, SessionLock(place.dsn, LOCK))
    return [grantor, FencingRunner(place, grantor.leads)]
