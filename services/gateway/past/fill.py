"""Makes the snapshots that are to be kept, from the log; what is there already is not made again.

    python -m services.gateway.past            # of the log that ASV_POSTGRES_DSN names; until all are there

The gateway runs this as a process of its own, at the lowest priority, whenever the log has grown by so many events, and after an
upgrade whose views are others: what is folded and encoded there holds up no request.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys

from libs.common.log import EventLog, LogError
from services.gateway import snapshot
from services.gateway.model import ReadModel
from services.gateway.past import kept
from services.gateway.past.store import KeptStore

_log = logging.getLogger(__name__)

LOOK_S = 30.0
"""between two looks at whether one is to be made"""


async def fill(log: EventLog, store: KeptStore, every: int = kept.EVERY, kept_max: int = kept.KEPT_MAX) -> int:
    """How many were made. One of other code is replaced; those that are not wanted any more are dropped last. Raises LogError."""
    head, schema = await log.head(), snapshot.schema()
    wanted = kept.wanted(head.position, every, kept_max)
    there = set(await store.positions(schema))
    missing = [position for position in wanted if position not in there]
    if missing:
        await _make(log, store, missing)
    await store.drop(there - set(wanted))
    await store.drop_others(schema)
    return len(missing)


async def _make(log: EventLog, store: KeptStore, missing: list[int]) -> None:
    """From the last kept one before the first of them on. Raises LogError."""
    before = await store.nearest(missing[0], snapshot.schema())
    model = ReadModel()
    if before is not None:
        parts = kept.parts_of(before)
        model = ReadModel(before.position, *(kept.view(name, parts) for name in kept.PARTS))
    due = iter(missing)
    next_one = next(due)
    async for chunk in log.replay(model.position, missing[-1]):
        for recorded in chunk:
            model.apply(recorded)
            if recorded.position == next_one:
                await store.keep(kept.packed(next_one, kept.raw(model)))
                next_one = next(due, 0)


async def keep_filled(log: EventLog, store: KeptStore, dsn: str) -> None:
    """A chore of the gateway: looks now and then, and has another process make what is missing in that log, by whose role it may
    write them. Until it is cancelled."""
    while True:
        try:
            missing = set(kept.wanted((await log.head()).position)) - set(await store.positions(snapshot.schema()))
            if missing:
                await _run(dsn)
        except LogError as error:
            _log.debug("no look at kept snapshots just now: %s", error)
        await asyncio.sleep(LOOK_S)


async def _run(dsn: str) -> None:
    """Ends with it."""
    made = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.gateway.past", env=os.environ | {"ASV_POSTGRES_DSN": dsn}, preexec_fn=_lowest,
        stdin=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        if code := await made.wait():
            _log.warning("kept snapshots were not all made (exit code %d); they are tried again", code)
    finally:
        if made.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                made.kill()
            await made.wait()


def _lowest() -> None:
    os.nice(19)
