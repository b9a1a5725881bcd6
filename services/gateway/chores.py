"""What the gateway does every now and then, whoever asks or not."""

from __future__ import annotations

import asyncio
import logging

from libs.common.blobs import SWEEP_MAX, BlobError, BlobStore
from libs.common.clock import Clock

_log = logging.getLogger(__name__)

SWEEP_S = 60.0
ROUNDS_MAX = 10
"""rounds of one sweep, each of at most SWEEP_MAX blobs; what is left waits for the next"""


async def sweep_blobs(blobs: BlobStore, clock: Clock, every_s: float = SWEEP_S) -> None:
    """Remove what need not be kept any more, for ever. Several gateways may do so at once."""
    while True:
        try:
            await sweep_once(blobs, clock.now_us())
        except BlobError as error:
            _log.info("blobs are not swept just now: %s", error)
        await asyncio.sleep(every_s)


async def sweep_once(blobs: BlobStore, now_us: int) -> int:
    """Gives how many were removed. Raises BlobsAway."""
    removed = 0
    for _ in range(ROUNDS_MAX):
        some = await blobs.sweep(now_us)
        removed += some
        if some < SWEEP_MAX:
            break
    return removed
