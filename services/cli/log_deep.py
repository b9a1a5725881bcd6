"""`asvctl log verify --deep`: the services' code, what they say of themselves, and what their snapshots hold."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

from libs.common.host import snapshots
from libs.common.host.core import Host
from libs.common.host.service import Service
from libs.common.log import Snapshot
from libs.verify import Fault
from libs.verify.archived import Files
from libs.verify.beside import Beside
from libs.verify.postgres import PostgresEvidence
from libs.verify.reading import Reading
from libs.verify.states import Claim, States, of_snapshot, whose
from libs.verify.verify import Reader
from libs.verify.views import Picture
from proto.families import REGISTRY
from proto.services import SERVICES
from proto.upcasts import UPCASTS
from services.cli.client import Client, path
from services.cli.failure import Failure
from services.cli.session import SESSION
from services.cli.where import find

GATEWAY = "gateway"
EVENTS_MIN = 100_000
"""below that starting a process costs more than it wins"""


def service(name: str) -> Service:
    """Imported only where the log is folded: services are no part of this program otherwise."""
    found: Service = importlib.import_module(f"services.{name}.app").SERVICE
    return found


def fresh(name: str) -> Host:
    return Host(service(name), dict(UPCASTS))


class Held(NamedTuple):
    """What a log is held against once it is folded: snapshots of services that today's code can read, and what these say of
    themselves. It goes to another process as it is."""

    snapshots: tuple[Snapshot, ...]
    told: tuple[Claim, ...]


async def held(evidence: PostgresEvidence | Files, live: bool, notes: list[str]) -> tuple[Held, list[Reader]]:
    """And who else is to read: the gateway's views. live: the running services, too. notes: what was and was not compared."""
    found: list[Snapshot] = []
    pictures: list[Reader] = []
    for kept in (await evidence.ends()).snapshots:
        snapshot = await evidence.snapshot(kept.name)
        if kept.name == GATEWAY and snapshot is not None:
            pictures += _shown(snapshot, notes)
        elif kept.name not in SERVICES:
            notes.append(f"The snapshot of {kept.name} was not compared: no service here is called so.")
        elif snapshot is None or snapshot.schema != snapshots.schema(service(kept.name)):
            notes.append(f"The snapshot of {kept.name} was not compared: code of another release took it.")
        else:
            found.append(snapshot)
    told = told_by_services() if live else []
    if not live:
        notes.append("Running services were not asked: --log names another log than this cluster's.")
    said = [*map(whose, found), *(claim.who for claim in told)] + ["what the gateway shows"] * bool(pictures)
    notes.append(f"Compared with the folded log: {', '.join(said) or 'nothing'}.")
    return Held(tuple(found), tuple(told)), pictures


def readers(held: Held) -> list[Reader]:
    """Those that decode and fold, for `verify`."""
    reading = Reading(REGISTRY)
    claims: list[Claim] = []
    faults: list[Fault] = []
    for snapshot in held.snapshots:
        try:
            claim = of_snapshot(fresh(snapshot.name), snapshot)
        except ValueError as error:
            faults.append(Fault(f"snapshot {snapshot.name}", str(error)))
        else:
            claims += [claim] if claim is not None else []
    states = States([fresh(name) for name in SERVICES], [*claims, *held.told], reading)
    states.faults += faults
    return [reading, states]


@contextmanager
def folding(held: Held, events: int) -> Iterator[Sequence[Reader]]:
    """The same for a log of so many events: in a process of their own where it is long, and there is a core for that. Raises
    Ended."""
    if events < EVENTS_MIN or len(os.sched_getaffinity(0)) < 2:
        yield readers(held)
        return
    with Beside(partial(readers, held)) as beside:
        yield [beside]


def _shown(snapshot: Snapshot, notes: list[str]) -> Iterator[Reader]:
    """The gateway's views, which hold nothing but what the log gives."""
    code: Any = importlib.import_module("services.gateway.snapshot")
    kept = code.restore(snapshot, snapshot.position)
    if kept is None:
        notes.append("The snapshot of the gateway was not compared: code of another release took it.")
    else:
        yield Picture(f"the gateway's snapshot at {snapshot.position}", snapshot.position, kept, type(kept)())


def told_by_services() -> list[Claim]:
    """What each running service says of its streams. Raises Failure where one does not answer: it was to be compared."""
    client = Client(find(os.environ, SESSION.api, SESSION.token))
    return [_told(client, name) for name in SERVICES]


def _told(client: Client, name: str) -> Claim:
    streams: dict[str, tuple[int, bytes]] = {}
    position, after = -1, ""
    while True:
        try:
            page = client.get(path("cluster", "digests", name, after=after))
        except Failure as error:
            raise Failure(error.code, f"{name} does not say what its streams are like: {error.sentence}", error.remedy) from error
        position = page["position"] if position < 0 else position
        for one in page["streams"]:
            streams[one["stream"]] = one["version"], bytes.fromhex(one["digest"])
            after = one["stream"]
        if not page["more"]:
            return Claim(f"{name} as it runs", name, position, streams)
