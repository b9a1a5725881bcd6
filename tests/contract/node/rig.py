"""One agent with its watchdog, as processes on a real bus; compute, memory, io and ha are played by the test."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from libs.common.bus import Incoming
from libs.common.bus.nats import NatsBus
from libs.common.messages import Reply, decode_envelope, encode
from proto.lease import AskGrant, Granted
from services.node.drivers.qemu.disks import id_of
from tests.contract.watchdog_rig import MAIN
from tests.servers import NatsServer, dies_with_parent

NODE = "n1"
WAIT_S_MAX = 20.0
LEASE_US = 5_000_000
SERVICES = ("compute", "memory", "io", "ha")


class Agent:
    """facts: (service, body) as they came, each answered well; telemetry: by the last word of its subject, the bodies."""

    def __init__(self, bus: NatsBus, word: str) -> None:
        self.bus, self.word = bus, word
        self.facts: list[tuple[str, dict[str, Any]]] = []
        self.telemetry: dict[str, list[bytes]] = {}
        self.refused = ""
        """why ha's grantor gives no lease; "": it does"""

    async def order(self, body: dict[str, Any]) -> dict[str, Any]:
        return await self.raw(f"order.{NODE}", encode(body))

    async def ask(self, what: str, body: dict[str, Any]) -> dict[str, Any]:
        return await self.raw(f"ask.{NODE}.{what}", encode(body))

    async def raw(self, subject: str, data: bytes) -> dict[str, Any]:
        answer: dict[str, Any] = msgspec.msgpack.decode(await self.bus.request(subject, data, timeout_s=WAIT_S_MAX))
        return answer

    async def fact(self, type: str, holds: Callable[[dict[str, Any]], bool] = lambda _: True, after: int = 0) -> dict[str, Any]:
        """The first of that type behind the first `after` facts for which it holds."""
        found: list[dict[str, Any]] = []

        def came() -> bool:
            found[:] = [body for _, body in self.facts[after:] if body["type"] == type and holds(body)]
            return bool(found)

        await until(came, f"{type}; came: {[body['type'] for _, body in self.facts[after:]]}")
        return found[0]

    async def _serve(self) -> None:
        for service in SERVICES:
            await self.bus.serve(f"fact.{NODE}.{service}", self._fact)
        await self.bus.serve(f"lease.{NODE}", self._grant)
        await self.bus.serve(f"tel.{NODE}.*", self._telemetry)

    async def _fact(self, message: Incoming) -> None:
        body = msgspec.msgpack.decode(decode_envelope(message.data).data)
        self.facts.append((message.subject.rpartition(".")[2], body))
        await message.respond(encode(Reply(status="accepted")))

    async def _grant(self, message: Incoming) -> None:
        asked = msgspec.msgpack.decode(message.data, type=AskGrant)
        lease_us = 0 if self.refused else LEASE_US
        await message.respond(encode(Granted(1, 1, asked.sent_us, lease_us, (self.word,), refused=self.refused)))

    async def _telemetry(self, message: Incoming) -> None:
        self.telemetry.setdefault(message.subject.rpartition(".")[2], []).append(message.data)


@asynccontextmanager
async def agent(nats: NatsServer, folder: Path) -> AsyncIterator[Agent]:
    """Serves, and holds a lease."""
    pool, state, ready, said = folder / "pool", folder / "state", folder / "ready", folder / "said"
    pool.mkdir()
    (state / "keys").mkdir(parents=True)
    (state / "keys" / f"{NODE}.jwt").touch()  # it has joined a bus that asks nobody who they are
    bus = await NatsBus.connect(nats.url, name="control")
    one = Agent(bus, id_of(pool))
    await one._serve()
    environment = {
        "PATH": os.environ["PATH"], "HOME": str(folder), "ASV_NODE": NODE, "ASV_STATE": str(state), "ASV_POOLS": f"default={pool}",
        "ASV_DRIVER": "simulated", "ASV_WATCHDOG": "true", "ASV_WATCH_LISTEN": "127.0.0.1:0", "ASV_NATS_URL": nats.url,
        "ASV_READY": str(ready), "ASV_LOG_LEVEL": "WARNING",
    }  # fmt: skip
    with said.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-I", "-S", str(MAIN), "--", sys.executable, "-m", "services.node", env=environment,
            cwd=MAIN.parents[2], stdout=out, stderr=out, preexec_fn=dies_with_parent(signal.SIGTERM),
        )  # fmt: skip
    try:
        await until(lambda: ready.exists() or process.returncode is not None, "the agent serves")
        assert ready.exists(), said.read_text()
        yield one
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
        await bus.drain()


async def until(holds: Callable[[], Any], what: str) -> None:
    try:
        async with asyncio.timeout(WAIT_S_MAX):
            while not holds():
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"not within {WAIT_S_MAX} s: {what}") from None
