"""`asvctl log verify --deep`: the services' code, what they say of themselves, and what their snapshots hold."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from typing import Any

from libs.common.host.core import Host
from libs.common.host.service import Service
from libs.common.log import Snapshot
from libs.verify import Fault
from libs.verify.archived import Files
from libs.verify.postgres import PostgresEvidence
from libs.verify.reading import Reading
from libs.verify.states import Claim, States, of_snapshot
from libs.verify.verify import Reader
from libs.verify.views import Picture
from proto.services import SERVICES
from proto.upcasts import UPCASTS
from services.cli.client import Client, path
from services.cli.failure import Failure
from services.cli.session import SESSION
from services.cli.where import find

GATEWAY = "gateway"


def service(name: str) -> Service:
    """Imported only where the log is folded: services are no part of this program otherwise."""
    found: Service = importlib.import_module(f"services.{name}.app").SERVICE
    return found


def fresh(name: str) -> Host:
    return Host(service(name), dict(UPCASTS))


async def readers(evidence: PostgresEvidence | Files, live: bool, notes: list[str], reading: Reading) -> list[Reader]:
    """What the log is to be folded against. live: the running services, too. notes: what was and was not compared. reading: who
    takes the events before these."""
    claims: list[Claim] = []
    faults: list[Fault] = []
    pictures: list[Reader] = []
    for kept in (await evidence.ends()).snapshots:
        snapshot = await evidence.snapshot(kept.name)
        if kept.name == GATEWAY and snapshot is not None:
            pictures += _shown(snapshot, notes)
            continue
        if kept.name not in SERVICES:
            notes.append(f"The snapshot of {kept.name} was not compared: no service here is called so.")
            continue
        try:
            claim = of_snapshot(fresh(kept.name), snapshot) if snapshot else None
        except ValueError as error:
            faults.append(Fault(f"snapshot {kept.name}", str(error)))
            continue
        if claim is None:
            notes.append(f"The snapshot of {kept.name} was not compared: code of another release took it.")
        else:
            claims.append(claim)
    if live:
        claims += told_by_services()
    else:
        notes.append("Running services were not asked: --log names another log than this cluster's.")
    found = States([fresh(name) for name in SERVICES], claims, reading)
    found.faults += faults
    said = [claim.who for claim in claims] + ["what the gateway shows"] * bool(pictures)
    notes.append(f"Compared with the folded log: {', '.join(said) or 'nothing'}.")
    return [found, *pictures]


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
