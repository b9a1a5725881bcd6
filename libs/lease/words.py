"""What agent and watchdog say to one another on `<state>/watchdog/socket`: one JSON object a line, `word` says which. The watchdog
is the server; whoever connects last is its agent. Times are of CLOCK_BOOTTIME in microseconds.

agent to watchdog
    grant    term epoch sent_us lease_us pools refused tolerant       as the grantor answered (proto.lease.Granted)
    learnt   number raised                                            to `learn`
    begin    id vm start a start of a protected VM (or, else, something that lets one run) is to be done: `id`, why_not ("": it may)
    over     vm          it has come to its end, whatever came of it
    records  id nodes pools                                           `id`, sightings, error
    letter   id node pools number term epoch vms                      `id`, sightings (none), error
    probe    id addresses                                             `id`, answered_ms, error
    hello    `state` is said at once

watchdog to agent
    state    own epoch term at_us left_us guarded doomed clean pools watch_at sightings slow renews tolerant   at first, once a
             second, upon change; at_us: when this was said; renews, tolerant: pools and length of the last grant that was taken;
             doomed: VMs that are being killed; clean: it has ended, and nothing is left; pools: word by name, of those where
             silence can be proven; sightings: what was read since the last time (proto.lease.Sighting)
    ask      ask for a grant now
    learn    number vms                                               the generations of these VMs, of the control plane
    …        the answers above, by `id`
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

LINE_BYTES_MAX = 1 << 20
SOCKET = "socket"
FOLDER = "watchdog"
"""below the node's state folder"""


class BadWords(ValueError):
    """What came is none of these words."""


def line(word: str, **values: Any) -> bytes:
    return json.dumps({"word": word, **values}, separators=(",", ":")).encode() + b"\n"


class Lines:
    """Bytes in, words out. Raises BadWords for what is too long or no object with a word; the connection is then of no use."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[dict[str, Any]]:
        *whole, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > LINE_BYTES_MAX:
            raise BadWords(f"a line of more than {LINE_BYTES_MAX} bytes")
        for text in whole:
            try:
                found = json.loads(text)
            except ValueError as error:
                raise BadWords(f"no JSON: {error}") from None
            if not isinstance(found, dict) or not isinstance(found.get("word"), str):
                raise BadWords("no object with a word")
            yield found
