"""What the event log is measured against: the `eventsourcing` package, pgbench and psql, on the same server."""

from __future__ import annotations

import os
import re
import subprocess
import threading
import time
from pathlib import Path
from uuid import UUID, uuid4  # noqa: TID251 the peer identifies its aggregates so

from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event
from eventsourcing.persistence import StoredEvent
from eventsourcing.postgres import PostgresApplicationRecorder, PostgresDatastore

from tests.servers import Postgres

THREADS = 16
DATABASE = "peer"


class Machine(Aggregate):
    """An aggregate of theirs with an event of about the size of ours."""

    @event("Started")
    def start(self, node: str, generation: int, boot_id: str, pcpus: tuple[int, ...]) -> None:
        self.generation = generation


class Eventsourcing:
    """Their Postgres recorder and mapper, default settings, over the unix socket."""

    def __init__(self, server: Postgres) -> None:
        place = {"host": str(server.folder), "port": "5432", "user": "postgres", "password": "none"}
        self._store = PostgresDatastore(dbname=DATABASE, pool_size=20, max_overflow=20, **place)  # type: ignore[arg-type]
        self._recorder = PostgresApplicationRecorder(self._store, events_table_name="single_events")
        self._recorder.create_table()
        names = {f"POSTGRES_{k.upper()}": v for k, v in place.items()}
        self.app = Application[UUID](
            {"PERSISTENCE_MODULE": "eventsourcing.postgres", "POSTGRES_DBNAME": DATABASE, **names}
        )

    def append_per_s(self, seconds: float, payload: bytes) -> float:
        """Single events from 16 threads: events per second."""
        counts = [0] * THREADS
        end = time.perf_counter() + seconds

        def work(number: int) -> None:
            while time.perf_counter() < end:
                self._recorder.insert_events([StoredEvent(uuid4(), 1, "vm:VmStarted", payload)])
                counts[number] += 1

        begin = time.perf_counter()
        threads = [threading.Thread(target=work, args=(n,)) for n in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(counts) / (time.perf_counter() - begin)

    def fill(self, events: int, per_machine: int = 200) -> None:
        for _ in range(0, events, per_machine):
            machine = Machine()
            for n in range(per_machine - 1):
                machine.start("n1", n, "b0f3e1d2-7c55-4f1e-9f6c-0d8f6f1b2a3c", (0, 1))
            self.app.save(machine)

    def replay_per_s(self) -> float:
        """All notifications through the mapper into domain events: events per second."""
        begin, count, start = time.perf_counter(), 0, 1
        while notifications := self.app.recorder.select_notifications(start, 5000):
            for notification in notifications:
                self.app.mapper.to_domain_event(notification)
            count += len(notifications)
            start = notifications[-1].id + 1
        return count / (time.perf_counter() - begin)

    def close(self) -> None:
        self.app.close()
        self._store.close()


def pgbench_per_s(server: Postgres, database: str, script: str, seconds: float, start: int) -> float:
    """Transactions per second of one client that runs the script, prepared; `:n` counts up from `start`."""
    path = Path(server.folder) / "append.pgbench"
    path.write_text("\\set n :n + 1\n" + script)
    args = [str(server.bin / "pgbench"), "-n", "-M", "prepared", "-c", "1", "-T", str(max(1, round(seconds)))]
    args += ["-D", f"n={start}", "-f", str(path), "-h", str(server.folder), "-U", "asv_service", database]
    done = subprocess.run(args, capture_output=True, text=True, check=True, env=_environment())
    found = re.search(r"^tps = ([\d.]+)", done.stdout, re.MULTILINE)
    assert found is not None, done.stdout + done.stderr
    return float(found[1])


def psql_copy_per_s(server: Postgres, dsn: str, query: str, events: int) -> float:
    """Rows per second of `psql -c "COPY (query) TO STDOUT (FORMAT binary)"` into nothing."""
    begin = time.perf_counter()
    args = [str(server.bin / "psql"), "-X", "-q", dsn, "-c", f"COPY ({query}) TO STDOUT (FORMAT binary)"]
    subprocess.run(args, stdout=subprocess.DEVNULL, check=True, env=_environment())
    return events / (time.perf_counter() - begin)


def _environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith("PG")}
