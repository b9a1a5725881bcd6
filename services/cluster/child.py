"""One process that is kept running: started, waited for, started again when it ends, with a growing pause and without end.

stopped ─start─▶ starting ─ready─▶ ready ─ends─▶ waiting ─pause over─▶ starting …
   ▲                 └─ends─▶ waiting                any ─off─▶ off (until start)
   └── stop: its stop signal, then SIGKILL
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGTERM, Signals

from services.cluster.apart import enter
from services.cluster.places import ServerUser
from services.cluster.processes import Mark, alive, children_of, dies_with_parent, end, mark_of, send
from services.cluster.record import ChildRecord
from services.cluster.standing import join

PAUSE_S_MIN, PAUSE_S_MAX = 0.1, 5.0
STEADY_S = 20.0
"""A process that ran this long starts again at the shortest pause."""
READY_POLL_S = 0.02
LOG_MIB_MAX = 32


@dataclass(frozen=True, slots=True)
class Spec:
    """What to run, and how it is told to end.

    ready       asked again and again while it starts; it may raise OSError, which means no
    ready_file  removed before every start; where there is no `ready`, its presence means yes
    prepare     awaited before every start
    namespace   the network namespace it lives in; none: the supervisor's
    group       the control group it is born into, by the file that takes processes; none: the supervisor's
    death       the signal that the kernel sends it when the supervisor dies
    stop        the signal that ends it in good order, within stop_s_max
    """

    name: str
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    log: Path
    cwd: Path
    ready: Callable[[], bool] | None = None
    ready_file: Path | None = None
    prepare: Callable[[], Awaitable[None]] | None = None
    user: ServerUser | None = None
    group: Path | None = None
    namespace: Path | None = None
    death: Signals = SIGKILL
    stop: Signals = SIGTERM
    stop_s_max: float = 10.0


@dataclass
class Child:
    """Keeps one Spec running. `changed` is called after each change of `record`."""

    spec: Spec
    changed: Callable[[], None]
    record: ChildRecord = field(default_factory=ChildRecord)
    _task: asyncio.Task[None] | None = None
    _process: asyncio.subprocess.Process | None = None
    _is_ready: asyncio.Event = field(default_factory=asyncio.Event)
    _spawning: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def mark(self) -> Mark | None:
        return self.record.mark

    def start(self) -> None:
        """Begins to keep it running; nothing happens where that is so already."""
        if self._task is None:
            self._task = asyncio.create_task(self._keep())

    async def wait_ready(self) -> None:
        await self._is_ready.wait()

    async def stop(self) -> None:
        """Ends it in good order, and by force after stop_s_max. It stays stopped."""
        await self._end(self.spec.stop, "stopped")

    async def off(self) -> None:
        """Ends it at once, as a power cut would. It stays off until `start`."""
        await self._end(SIGKILL, "off")

    def signal(self, number: Signals) -> bool:
        """Signals the process. False where there is none."""
        return send(self.record.mark, number)

    async def _end(self, number: Signals, state: str) -> None:
        async with self._spawning:  # never between fork and knowing the pid
            task, self._task = self._task, None
            if task is not None:
                task.cancel()
        if task is not None:
            await asyncio.gather(task, return_exceptions=True)
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            self.signal(SIGCONT)  # a frozen one hears nothing
            self.signal(number)
            try:
                await asyncio.wait_for(process.wait(), self.spec.stop_s_max)
            except TimeoutError:
                self.signal(SIGKILL)
                await process.wait()
        self._is_ready.clear()
        self._set(state, None)

    async def _keep(self) -> None:
        pause_s = PAUSE_S_MIN
        while True:
            began = time.monotonic()
            try:
                sentence = await self._run_once()
            except Exception as error:  # preparing or starting it failed: told, and tried again like any other end
                sentence = f"could not be started: {error}"
            self._is_ready.clear()
            pause_s = PAUSE_S_MIN if time.monotonic() - began > STEADY_S else min(2 * pause_s, PAUSE_S_MAX)
            self.record.restarts += 1
            self._set("waiting", None, sentence)
            await asyncio.sleep(pause_s)

    async def _run_once(self) -> str:
        """From start to end of one process; how it ended."""
        self._set("starting", None, self.record.sentence)
        if self.spec.prepare is not None:
            await self.spec.prepare()
        if self.spec.ready_file is not None:
            self.spec.ready_file.unlink(missing_ok=True)
        async with self._spawning:
            self._process = process = await self._spawn()
        self._set("starting", mark_of(process.pid), self.record.sentence)
        watch = asyncio.create_task(self._watch_ready())
        try:
            code = await process.wait()
        finally:
            watch.cancel()
        return f"ended by {Signals(-code).name}" if code < 0 else f"ended with exit code {code}"

    async def _spawn(self) -> asyncio.subprocess.Process:
        spec = self.spec
        with spec.log.open("ab") as log:
            return await asyncio.create_subprocess_exec(
                *spec.argv, env=dict(spec.environment), cwd=spec.cwd, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                preexec_fn=_before(spec), start_new_session=True,
                **(spec.user.popen() if spec.user else {}),
            )  # fmt: skip

    async def _watch_ready(self) -> None:
        while not await asyncio.to_thread(self._asked_ready):  # noqa: ASYNC110
            await asyncio.sleep(READY_POLL_S)  # another process's state: nothing here could wake us
        self._is_ready.set()
        self._set("ready", self.record.mark, self.record.sentence)

    def _asked_ready(self) -> bool:
        try:
            if self.spec.ready is not None:
                return self.spec.ready()
            return self.spec.ready_file is None or self.spec.ready_file.exists()
        except OSError:
            return False

    def _set(self, state: str, mark: Mark | None, sentence: str = "") -> None:
        self.record.state, self.record.mark, self.record.sentence = state, mark, sentence
        self.changed()


def _before(spec: Spec) -> Callable[[], None]:
    """What the child does before it becomes the program."""
    arm = dies_with_parent(spec.death)

    def before() -> None:
        if spec.group is not None:
            join(spec.group)
        if spec.namespace is not None:
            enter(spec.namespace)
        arm()

    return before


def end_leftovers(marks: list[Mark], postmaster: Mark | None) -> None:
    """Ends what a killed supervisor may have left, with all of PostgreSQL's own children. VMs are nobody's child here: agents
    start them as sessions of their own."""
    family = children_of(postmaster.pid) if postmaster is not None and alive(postmaster) else []
    end([mark for mark in marks if alive(mark)], SIGTERM, 10.0)
    end(family, SIGKILL, 5.0)


def trim(log: Path) -> None:
    """Keeps a log that a process appends to below LOG_MIB_MAX: its newest half stays."""
    limit = LOG_MIB_MAX * 2**20
    with contextlib.suppress(OSError):
        if log.stat().st_size > limit:
            with log.open("r+b") as file:
                file.seek(-limit // 2, os.SEEK_END)
                tail = file.read()
                file.truncate(0)
            with log.open("ab") as file:
                file.write(tail)
