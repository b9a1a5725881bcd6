"""Wires services to the log and the bus, and drains them at SIGTERM."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import logging
import os
import signal
import sys
from collections.abc import Sequence

from libs.common import loop, telemetry
from libs.common.bus import Bus, BusError
from libs.common.bus.credentials import BadCredentials, Credentials
from libs.common.bus.edge import Edge
from libs.common.bus.nats import NatsBus
from libs.common.clock import SystemClock
from libs.common.config import BadConfig, load
from libs.common.host.beside import Companion, Place
from libs.common.host.driver import Runner
from libs.common.host.relaying import RelayRunner
from libs.common.log import EventLog, Fenced, LogError
from libs.common.log.postgres import PostgresLog
from libs.common.metrics import METRICS
from proto.services import CONTROL, RELAY
from proto.upcasts import DOWNCASTS, UPCASTS
from services.host.config import HostConfig
from services.host.known import service

log = logging.getLogger(__name__)


def beside(name: str, place: Place) -> Sequence[Companion]:
    """What services.<name>.beside has to run in the same process, where there is such a module."""
    where = f"services.{name}.beside"
    if importlib.util.find_spec(where) is None:
        return ()
    found: Sequence[Companion] = importlib.import_module(where).beside(place)
    return found


async def run(names: Sequence[str], config: HostConfig) -> None:
    """Serve until SIGTERM or SIGINT. Raises LogError, BusError when it cannot begin, LogError too where the log holds what only a
    later release reads; Fenced when the log was restored: whoever
    watches this process starts it again, and it folds the log that is there now."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    name = config.name or "-".join(names)
    telemetry.start(name, config.otlp_endpoint, config.trace_ratio)
    credentials = Credentials.load(config.nats_creds, name) if config.nats_creds else None
    bus: Bus = await NatsBus.connect(config.nats_url, credentials, name=name)
    events = await PostgresLog.open(config.postgres_dsn, archive=config.log_archive)
    _count(events)
    clock = SystemClock()
    runners: list[Runner | RelayRunner] = [RelayRunner(events, bus, name)] if RELAY in names else []
    runners += [
        Runner(service(n), events, bus, clock, dict(UPCASTS), name, dict(DOWNCASTS)) for n in names if n != RELAY
    ]
    for runner in runners:
        await runner.start()
    companions = [
        companion
        for runner in runners
        if isinstance(runner, Runner)
        for companion in beside(runner.name, Place(runner, bus, runner.clock, config.postgres_dsn, name, config.secrets_key))
    ]
    for companion in companions:
        await companion.start()
    log.info("%s: ready", ", ".join(names))
    edge = Edge.to(config.nats_url, credentials, name=name)
    for runner in runners:
        edge.questions(runner.name, runner.question)
    await edge.start()
    if config.ready is not None:
        config.ready.touch()
    fenced = await _ended(stop, [runner.fenced for runner in runners])
    log.info("%s: draining", ", ".join(names))
    await edge.stop()
    for companion in reversed(companions):
        await companion.stop()
    await _drain(runners, bus, events)
    telemetry.stop()
    if fenced:
        why = (runner.why for runner in runners if isinstance(runner, Runner) and runner.why is not None)
        raise next(why, None) or Fenced("the log has another incarnation than the one that was folded: start over")


async def _ended(stop: asyncio.Event, fenced: Sequence[asyncio.Event]) -> bool:
    """Waits for any of them; True where it was not `stop`."""
    waiting = [asyncio.ensure_future(event.wait()) for event in (stop, *fenced)]
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for task in waiting:
        task.cancel()
    return not stop.is_set()


def _count(events: PostgresLog) -> None:
    """The log's writer counts for the whole process."""
    counters = events.counters
    METRICS.counter("asv_log_batches_total", "transactions of the log's writer").read(lambda: counters.batches)
    METRICS.counter("asv_log_units_total", "commands and marks it wrote").read(lambda: counters.units)
    METRICS.counter("asv_log_reconnects_total", "connections it made anew").read(lambda: counters.reconnects)


async def _drain(runners: Sequence[Runner | RelayRunner], bus: Bus, events: EventLog) -> None:
    for runner in reversed(runners):
        await runner.stop()
    await bus.drain()
    await events.close()


def main(names: Sequence[str]) -> None:
    """Runs the named services in this process. Exits 2 on a wrong name or setting, 1 when it cannot begin."""
    unknown = [n for n in names if n not in CONTROL]
    if unknown or not names:
        sys.exit(f"services.host: {', '.join(unknown) or 'no name'} given; one or more of: {', '.join(CONTROL)}")
    try:
        config = load(HostConfig, os.environ)
    except BadConfig as wrong:
        sys.exit(f"services.host: {wrong}")
    logging.basicConfig(level=config.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        loop.run(run(names, config))
    except (LogError, BusError, BadCredentials) as error:
        sys.exit(f"services.host: {error}")
