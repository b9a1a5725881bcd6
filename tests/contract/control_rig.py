"""The services as processes of a test, on its own servers, and a user who asks them until there is an answer."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from libs.common.bus import BusError
from libs.common.bus.nats import NatsBus
from libs.common.messages import Command, Envelope, Reply, decode_reply, encode
from tests.servers import dies_with_parent

CHECKOUT = Path(__file__).parents[2]


class Control:
    """A control-plane process, with the means to kill it and to wait until it serves."""

    def __init__(self, names: Sequence[str], dsn: str, url: str, folder: Path) -> None:
        self.names = names
        self.ready = folder / ("ready-" + "-".join(names))
        self.log = folder / ("log-" + "-".join(names))
        self.env = {
            "PATH": os.environ["PATH"], "HOME": str(folder), "ASV_POSTGRES_DSN": dsn, "ASV_NATS_URL": url,
            "ASV_READY": str(self.ready), "ASV_LOG_LEVEL": "WARNING",
        }  # fmt: skip
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self.ready.unlink(missing_ok=True)
        with self.log.open("ab") as out:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "services.host", *self.names, env=self.env, cwd=CHECKOUT, stdout=out, stderr=out,
                preexec_fn=dies_with_parent(signal.SIGKILL),
            )  # fmt: skip
        async with asyncio.timeout(30):
            while not self.ready.exists():
                assert self.process.returncode is None, self.log.read_text()
                await asyncio.sleep(0.02)

    async def ended(self) -> int:
        assert self.process is not None
        return await asyncio.wait_for(self.process.wait(), 30)

    async def end(self, number: signal.Signals) -> int:
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)
        return await self.ended()


async def ask(bus: NatsBus, subject: str, command: Command, id: str, actor: str = "user:test") -> Reply:
    """As a patient user: the same id until there is an answer."""
    data = encode(Envelope(id=id, data=msgspec.Raw(encode(command)), actor=actor))
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(BusError):
                reply = decode_reply(await bus.request(subject, data, timeout_s=1.0))
                if reply.status != "unavailable":
                    return reply
            await asyncio.sleep(0.02)
