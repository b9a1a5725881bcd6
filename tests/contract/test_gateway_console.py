"""The serial console over a websocket, with an agent that speaks the bus's side of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from libs.common.bus import Incoming
from libs.common.messages import encode
from proto.node import AskConsole, Heard
from tests.contract.gateway_rig import Rig, defined, rig, run_vm


class Agent:
    """Echoes in upper case; `said` is a queue of what came in. An empty message ends a session."""

    def __init__(self, world: Rig) -> None:
        self.world = world
        self.asked: list[AskConsole] = []
        self.said: asyncio.Queue[bytes] = asyncio.Queue()
        self.answer: bytes = encode(Heard(accepted=True))

    async def open(self) -> None:
        await self.world.bus.serve("ask.n1.console", self._ask)
        await self.world.bus.serve("console.n1.*.in", self._in)

    async def _ask(self, message: Incoming) -> None:
        self.asked.append(msgspec.msgpack.decode(message.data, type=AskConsole))
        await message.respond(self.answer)

    async def _in(self, message: Incoming) -> None:
        self.said.put_nowait(message.data)
        if message.data:
            await self.say(message.data.upper())

    async def say(self, data: bytes) -> None:
        await self.world.bus.publish(f"console.n1.{self.asked[-1].session}.out", data)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[Rig]:
    async with rig(tmp_path) as made:
        await run_vm(made)
        yield made


@pytest.fixture
async def agent(world: Rig) -> Agent:
    made = Agent(world)
    await made.open()
    return made


async def console(world: Rig, role: str = "operator", vm: str = "a") -> ClientConnection:
    token = (await world.client(role)).headers["authorization"]
    url = world.url.replace("http", "ws") + f"/v1/vms/{vm}/console"
    return await connect(url, additional_headers={"Authorization": token}, proxy=None)


async def closed(socket: ClientConnection) -> tuple[int, str]:
    """How the other side closed."""
    with pytest.raises(ConnectionClosed):
        while True:
            await asyncio.wait_for(socket.recv(), 5)
    return socket.close_code or 0, socket.close_reason or ""


async def test_both_ways_and_in_order(world: Rig, agent: Agent) -> None:
    socket = await console(world)
    await socket.send(b"ls\n")
    assert await asyncio.wait_for(socket.recv(), 5) == b"LS\n"
    for i in range(200):
        await agent.say(b"%d;" % i)
    text = b""
    while not text.endswith(b"199;"):
        text += bytes(await asyncio.wait_for(socket.recv(), 5))  # type: ignore[arg-type]
    assert text == b"".join(b"%d;" % i for i in range(200))
    await socket.close()
    assert await agent.said.get() == b"ls\n"
    assert await asyncio.wait_for(agent.said.get(), 5) == b"", "the agent is told that the session has ended"
    assert (await world.log.head()).position == 3, "nothing was recorded"


async def test_the_end_of_the_console(world: Rig, agent: Agent) -> None:
    socket = await console(world)
    await agent.say(b"")
    assert await closed(socket) == (1000, "the console has ended")


async def test_refusals(world: Rig, agent: Agent) -> None:
    await world.gateway.follower.reach(await world.tell("vm-b", [defined("b")]), 2)
    assert (await closed(await console(world, vm="b")))[0] == 4009
    assert (await closed(await console(world, vm="nobody")))[0] == 4004
    agent.answer = encode(Heard(accepted=False, sentence="the console is taken"))
    assert await closed(await console(world)) == (4009, "the console is taken")
    agent.answer = encode({"error": "no such VM"})
    assert await closed(await console(world)) == (4009, "no such VM")
    agent.answer = b"\xc1"
    assert (await closed(await console(world)))[0] == 4010


async def test_no_agent(world: Rig) -> None:
    code, reason = await closed(await console(world))
    assert code == 4010 and "agent of n1" in reason


async def test_viewers_get_none(world: Rig, agent: Agent) -> None:
    with pytest.raises((InvalidStatus, ConnectionClosed)):
        await (await console(world, "viewer")).recv()
    assert not agent.asked


async def test_a_reader_that_is_too_slow_is_cut(world: Rig, agent: Agent) -> None:
    socket = await console(world)
    session = next(iter(world.gateway.consoles._sessions.values()))
    for _ in range(1100):
        session.hear(b"x")
    code, reason = await closed(socket)
    assert code == 4008 and "faster" in reason
