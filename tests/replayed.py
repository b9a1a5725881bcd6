"""Everything that a cluster decided, decided again by the code that is here: asked of each real cluster before it is destroyed.

    assert_replayed(home)       home: an embedded cluster's state folder
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from libs.common.log import Unavailable
from libs.past.replaying import Replayed, redecide
from libs.past.where import open_past
from proto.services import SERVICES
from services.cluster.layout import Layout
from services.cluster.record import load
from services.host.replay import tell
from services.host.replay.codes import code


async def decided_again(log: str) -> dict[str, Replayed]:
    """Of each service. Raises Unavailable."""
    past = await open_past(log)
    try:
        return {name: await redecide(past, code(name)) for name in SERVICES}
    finally:
        await past.close()


def assert_replayed(home: Path) -> None:
    """Raises AssertionError with the first difference of each service that has one, and where a command was not kept. A cluster
    that does not run any more is not asked."""
    log = load(Layout(home).record).log
    if not log:
        return
    try:
        found = asyncio.run(decided_again(log))
    except Unavailable:
        return
    for service, replayed in found.items():
        said = "\n".join(tell.lines(service, replayed))
        assert replayed.difference is None, said
        assert (replayed.counts.unasked, replayed.counts.late) == (0, 0), said
