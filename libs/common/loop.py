"""How every long-running process of ours runs its event loop."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Coroutine

YOUNG_MAX = 20_000
"""objects made since the last collection before the next: messages come and go in batches, and die without the collector"""


def run[T](work: Coroutine[object, object, T]) -> T:
    """asyncio.run, on uvloop where it is installed. What was imported stays: the collector does not look at it again."""
    gc.freeze()
    gc.set_threshold(YOUNG_MAX, *gc.get_threshold()[1:])
    try:
        import uvloop
    except ImportError:
        return asyncio.run(work)
    return uvloop.run(work)
