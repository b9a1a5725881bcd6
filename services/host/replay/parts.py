"""A long log decided again on several cores: each process reads it whole, and decides the streams of its part. Streams do not know
of each other, so all parts together decide what one would; the first difference is the earliest of theirs."""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import msgspec

from libs.past.difference import Counts
from libs.past.redecide import Part
from libs.past.replaying import Replayed, redecide
from libs.past.where import opened
from services.host.replay.codes import code
from services.host.replay.words import PARTS_MAX, Wanted

EVENTS_MIN = 100_000
"""below that starting a process costs more than it wins"""


def parts_for(events: int) -> int:
    """How many processes a log of so many events is worth, of the cores that this one may use."""
    return min(PARTS_MAX, len(os.sched_getaffinity(0))) if events >= EVENTS_MIN else 1


async def _part(wanted: Wanted, part: Part) -> Replayed:
    past = await opened(wanted.log)
    try:
        return await redecide(past, code(wanted.service), wanted.first, wanted.last, part)
    finally:
        await past.close()


def _run(wanted: Wanted, part: Part) -> Replayed:
    return asyncio.run(_part(wanted, part))


def in_parts(wanted: Wanted, of: int) -> Replayed:
    """Raises what redecide raises in any part."""
    with ProcessPoolExecutor(of, mp_context=get_context("spawn")) as pool:
        found = list(pool.map(_run, [wanted] * of, [Part(number, of) for number in range(of)]))
    differences = [one.difference for one in found if one.difference is not None]
    first = min(differences, key=lambda one: (one.at_us, one.position), default=None)
    counts = Counts(*(sum(each) for each in zip(*(msgspec.structs.astuple(one.counts) for one in found), strict=True)))
    return found[0]._replace(difference=first, counts=counts)
