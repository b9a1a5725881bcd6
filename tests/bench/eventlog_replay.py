"""One replay in a process of its own: `python -m tests.bench.eventlog_replay DSN` prints events, seconds, and peak memory.

Every event is decoded into its own Struct, as a service does when it starts.
"""

from __future__ import annotations

import json
import resource
import sys
import time

from libs.common import loop
from libs.common.log.link import Access
from libs.common.log.replay import replay
from libs.common.registry import Registry
from proto.compute import VmStarted, VmStartRequested, VmStopped

KINDS = (VmStartRequested, VmStarted, VmStopped)
EVENTS = Registry(KINDS)


async def run(dsn: str) -> tuple[int, float]:
    count = 0
    begin = time.perf_counter()
    async for chunk in replay(Access(dsn), 0, None):
        events = EVENTS.events(chunk)
        assert isinstance(events[-1], KINDS)
        count += len(events)
    return count, time.perf_counter() - begin


if __name__ == "__main__":
    events, seconds = loop.run(run(sys.argv[1]))
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"events": events, "seconds": seconds, "rss_mb": peak_mb}))
