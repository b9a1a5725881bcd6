"""How every long-running process of ours runs its event loop."""

from __future__ import annotations

import asyncio
import ctypes
import gc
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager

YOUNG_MAX = 20_000
"""objects made since the last collection before the next: messages come and go in batches, and die without the collector"""
TRIM_BYTES_MAX = 16 << 20
"""free memory at the end of the heap that malloc keeps. Its own threshold gives each read buffer back and asks for it again,
thousands of page faults in a replay."""

M_TRIM_THRESHOLD = -1  # malloc.h


@contextmanager
def undisturbed(*, lasting: bool = False) -> Iterator[None]:
    """While much is made that stays, as a log is folded: the collector would walk through all of it again and again, and find
    nothing. lasting: it stays as long as the process, which is young: the collector never looks at it."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if lasting:
            gc.freeze()
        if was:
            gc.enable()


def run[T](work: Coroutine[object, object, T]) -> T:
    """asyncio.run, on uvloop where it is installed. What was imported stays: the collector does not look at it again."""
    gc.freeze()
    gc.set_threshold(YOUNG_MAX, *gc.get_threshold()[1:])
    if set_option := getattr(ctypes.CDLL(None), "mallopt", None):  # not every libc has it
        set_option(M_TRIM_THRESHOLD, TRIM_BYTES_MAX)
    try:
        import uvloop
    except ImportError:
        return asyncio.run(work)
    return uvloop.run(work)
