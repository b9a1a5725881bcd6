"""The log folded from zero, and held against what others say its streams are like: running services, and stored snapshots.

Of a stream and its version there is one state. So each is compared as the folding comes by that version, wherever its service or
snapshot was meanwhile with other streams. Views are of one position: those of a snapshot are compared as the folding is there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from libs.common.host import digests, snapshots
from libs.common.host.core import Host
from libs.common.host.folding import Folding
from libs.common.log import Snapshot
from libs.common.messages import Recorded
from libs.common.registry import TooNew, UnknownType
from libs.verify import Fault
from libs.verify.reading import Reading
from libs.verify.views import compared

ALL = 2**62
"""a position behind all: views have reacted to everything"""


class Claim(NamedTuple):
    """who: `compute, live`; what it says of the streams of a service: their versions and digests. position: streams that began up
    to there must be among them. views: as they were there; None: it says nothing of them."""

    who: str
    service: str
    position: int
    streams: Mapping[str, tuple[int, bytes]]
    views: Any = None


class States:
    """`take` events from the first one on, then `finish`. hosts: fresh, one for each service. reading: who takes each before, so
    that it need not be decoded again."""

    def __init__(self, hosts: Sequence[Host], claims: Iterable[Claim], reading: Reading | None = None) -> None:
        self.faults: list[Fault] = []
        self.compared = 0
        self._hosts, self._reading = hosts, reading
        self._folding = Folding(hosts, [ALL] * len(hosts), owned=True)
        self._by_kind = {decider.kind: host for host in hosts for decider in host.service.deciders}
        self._claims = list(claims)
        self._wanted: dict[str, list[tuple[int, bytes, str]]] = {}
        for claim in self._claims:
            for stream, (version, digest) in claim.streams.items():
                self._wanted.setdefault(stream, []).append((version, digest, claim.who))
        self._views: dict[int, list[Claim]] = {}
        for claim in self._claims:
            if claim.views is not None:
                self._views.setdefault(claim.position, []).append(claim)
        self._begun: dict[str, int] = {}
        self._broken = False

    def take(self, records: Sequence[Recorded]) -> None:
        if self._broken:
            return
        due = [n for n, recorded in enumerate(records) if recorded.stream in self._wanted and self._is_due(recorded)]
        self._begun.update((recorded.stream, recorded.position) for recorded in records if recorded.version == 1)
        latest = {records[n].stream: n for n in due}
        if latest:  # is the stream changed once more among these? Then it has to be looked at in between
            latest = {recorded.stream: n for n, recorded in enumerate(records) if recorded.stream in latest}
        pictures = {n + 1 for n, recorded in enumerate(records) if recorded.position in self._views} if self._views else set()
        cuts = sorted({n + 1 for n in due if latest[records[n].stream] != n} | pictures | {len(records)})
        events = self._reading.of(records) if self._reading is not None else None
        start = 0
        try:
            for cut in cuts:
                self._folding.fold(records[start:cut], events[start:cut] if events is not None else None)
                for n in due:
                    if start <= n < cut:
                        self._compare(records[n])
                for claim in self._views.pop(records[cut - 1].position, ()) if cut in pictures else ():
                    self._compare_views(claim)
                start = cut
        except (UnknownType, TooNew, msgspec.DecodeError, KeyError, TypeError, ValueError) as error:
            self._broken = True
            said = f"cannot be folded: {type(error).__name__}: {error}; states from there on were not compared"
            self.faults.append(Fault(f"position {records[start].position}", f"or one of those behind it {said}"))

    def _is_due(self, recorded: Recorded) -> bool:
        return any(version == recorded.version for version, _, _ in self._wanted[recorded.stream])

    def _compare(self, recorded: Recorded) -> None:
        host = self._by_kind.get(recorded.stream.partition("-")[0])
        slot = host.slots.get(recorded.stream) if host else None
        rest = []
        for version, wanted, who in self._wanted.pop(recorded.stream):
            if version != recorded.version:
                rest.append((version, wanted, who))
                continue
            self.compared += 1
            if slot is None or slot.version != version or digests.digest(slot.state) != wanted:
                said = f"is not what the log gives at version {version} (position {recorded.position})"
                self.faults.append(Fault(f"stream {recorded.stream}", f"in {who} {said}"))
        if rest:
            self._wanted[recorded.stream] = rest

    def _compare_views(self, claim: Claim) -> None:
        host = next(host for host in self._hosts if host.service.name == claim.service)
        self.compared += 1
        self.faults += compared(claim.who, claim.position, claim.views, host.views)

    def finish(self) -> None:
        """The log is at its end."""
        if self._broken:
            return
        for stream, left in sorted(self._wanted.items()):
            for version, _, who in left:
                self.faults.append(Fault(f"stream {stream}", f"in {who} is at version {version}, which the log does not have"))
        kinds = {host.service.name: {d.kind for d in host.service.deciders} for host in self._hosts}
        for claim in self._claims:
            for stream, position in sorted(self._begun.items()):
                if (
                    position <= claim.position and stream not in claim.streams
                    and stream.partition("-")[0] in kinds.get(claim.service, ())
                ):  # fmt: skip
                    self.faults.append(Fault(f"stream {stream}", f"began at position {position}, and {claim.who} does not know it"))


def of_snapshot(host: Host, snapshot: Snapshot) -> Claim | None:
    """What a stored snapshot says, read into a fresh host; None where other code took it: it is of no use to anybody. Raises
    ValueError where it cannot be read."""
    if snapshot.schema != snapshots.schema(host.service):
        return None
    try:
        snapshots.restore(host, snapshot)
    except (msgspec.DecodeError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot be read: {type(error).__name__}: {error}") from error
    streams = {name: (slot.version, digests.digest(slot.state)) for name, slot in host.slots.items()}
    return Claim(whose(snapshot), host.service.name, snapshot.position, streams, host.views)


def whose(snapshot: Snapshot) -> str:
    return f"{snapshot.name}'s snapshot at {snapshot.position}"
