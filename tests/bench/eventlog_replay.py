"""One replay in a process of its own: `python -m tests.bench.eventlog_replay DSN` prints events, seconds, and peak memory.

Every event is decoded into its own Struct, as a service does when it starts.
"""

from __future__ import annotations

import json
import resource
import sys
import time

import msgspec
import uvloop

from libs.common.log.link import Access
from libs.common.log.replay import replay
from proto.compute import VmStarted, VmStartRequested, VmStopped

DECODE = {c.__struct_config__.tag: msgspec.msgpack.Decoder(c).decode for c in (VmStartRequested, VmStarted, VmStopped)}


async def run(dsn: str) -> tuple[int, float]:
    count, decode = 0, DECODE
    begin = time.perf_counter()
    async for chunk in replay(Access(dsn), 0, None):
        for recorded in chunk:
            decode[recorded.type](recorded.data)
        count += len(chunk)
    return count, time.perf_counter() - begin


if __name__ == "__main__":
    events, seconds = uvloop.run(run(sys.argv[1]))
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"events": events, "seconds": seconds, "rss_mb": peak_mb}))
