"""A gateway on a real socket over the in-memory log and bus, and a small service that answers commands as real ones do."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import uvicorn

from libs.common.bus import Incoming, Published
from libs.common.bus.memory import Hub, MemoryBus
from libs.common.clock import SystemClock
from libs.common.decider import Refused
from libs.common.log import CommandRow, Duplicate, Group, NewEvent, Unit
from libs.common.log.memory import MemoryLog
from libs.common.messages import (
    Command,
    Delivered,
    Envelope,
    Event,
    Meta,
    NodeId,
    Reply,
    VmId,
    decode_envelope,
    encode,
    tag_of,
)
from libs.common.registry import Registry, UnknownType, members
from proto import compute as c
from proto import io
from proto.balance import BalanceCommand
from proto.cluster import ClusterCommand
from proto.fence import FenceCommand
from proto.guard import GuardCommand
from proto.lease import HaCommand, LeaseCommand
from proto.machine import Firmware, Priority, Shape
from proto.memory import LedgerCommand
from services.gateway.app import asgi, gateway
from services.gateway.auth import Role
from services.gateway.gateway import Gateway
from services.gateway.tokens import MemoryTokens, new_token

COMMANDS = Registry(
    k
    for union in (
        c.VmCommand, c.NodeCommand, ClusterCommand, BalanceCommand, io.ImageCommand, io.DevicesCommand, LedgerCommand,
        io.NetworkCommand, FenceCommand, HaCommand, LeaseCommand, GuardCommand, io.BackupsCommand, io.RecoveryCommand,
        io.PlansCommand,
        io.DrillsCommand,
        io.BackupFilesCommand,
    )
    for k in members(union)
)
SHAPE = Shape(
    vcpus=1, memory_mib=256, vcpus_max=1, memory_max_mib=256, machine="q35", cpu_model="qemu64",
    firmware=Firmware.DIRECT, uuid="00000000-0000-4000-8000-000000000001",
)  # fmt: skip
ABILITIES = c.Capabilities(
    accelerator="tcg", cpu_model="qemu64", pcpus=2, memory_mib=4096, qemu_version="7.2", machine="q35", driver="simulated",
    not_enforced=("cgroup",),
)  # fmt: skip

UNREAD = msgspec.Raw(b"\xc0")


def defined(vm: str) -> c.VmDefined:
    return c.VmDefined(vm=VmId(vm), shape=SHAPE, disks=(), nics=(), priority=Priority.NORMAL)


def start_requested(vm: str, node: str = "n1", generation: int = 1) -> c.VmStartRequested:
    return c.VmStartRequested(
        vm=VmId(vm), node=NodeId(node), generation=generation, memory_mib=256, vcpus=1, priority=Priority.NORMAL,
        placement=c.Placement(policy="test/1"),
    )  # fmt: skip


def started(vm: str, node: str = "n1", generation: int = 1) -> c.VmStarted:
    return c.VmStarted(vm=VmId(vm), node=NodeId(node), generation=generation, boot_id="b1", pcpus=(0,))


class Service:
    """Answers `cmd.<name>.>`: `rules[type]` gives events, raises Refused, or gives a Reply of its own; None: no answer."""

    def __init__(self, rig: Rig, name: str) -> None:
        self.rig = rig
        self.name = name
        self.heard: list[tuple[Envelope, Command]] = []
        self.rules: dict[type[Command], Any] = {}

    async def open(self) -> None:
        await self.rig.bus.serve(f"cmd.{self.name}.>", self._hear, queue=self.name)

    async def _hear(self, message: Incoming) -> None:
        try:
            envelope = decode_envelope(message.data)
            command = COMMANDS.decode(envelope.data)
        except (UnknownType, msgspec.DecodeError) as error:
            await message.respond(encode(Reply(status="invalid", reason="INVALID", sentence=str(error))))
            return
        self.heard.append((envelope, command))
        stream = message.subject.split(".")[2]
        if (reply := await self._decide(envelope, command, stream)) is not None:
            await message.respond(encode(reply))

    async def _decide(self, envelope: Envelope, command: Command, stream: str) -> Reply | None:
        before = await self.rig.log.command(envelope.id)
        if before is not None:
            return msgspec.structs.replace(msgspec.msgpack.decode(before.outcome, type=Reply), position=before.position)
        try:
            answer = self.rules[type(command)](command)
        except Refused as no:
            reply = Reply(
                status="refused", reason=str(no.reason), sentence=no.sentence, remedy=no.remedy, stream=stream
            )
            await self.rig.tell(stream, [], envelope, reply)
            return reply
        if answer is None or isinstance(answer, Reply):
            return answer
        reply = Reply(status="accepted", stream=stream, version=1)
        return msgspec.structs.replace(reply, position=await self.rig.tell(stream, answer, envelope, reply))


class Rig:
    """log, hub and bus; `client(role)` is an HTTP client with a token of its own."""

    def __init__(self, pools: dict[str, Path], **settings: Any) -> None:
        self.clock = SystemClock()
        self.log = MemoryLog(self.clock.now_us)
        self.hub = Hub()
        self.bus = MemoryBus(self.hub)
        self.tokens = MemoryTokens()
        self.compute = Service(self, "compute")
        self.io = Service(self, "io")
        self.ha = Service(self, "ha")
        self.url = ""
        self.live = True
        self.gateway: Gateway = gateway(
            self.log, MemoryBus(self.hub), self.clock, self.tokens, pools=pools, request_s=0.5, **settings
        )
        self._clients: list[httpx.AsyncClient] = []

    async def tell(
        self, stream: str, events: Sequence[Event], envelope: Envelope | None = None, reply: Reply | None = None
    ) -> int:
        """Append as a service would, and publish while `live`. Gives the first position, 0 where nothing was written."""
        e = envelope or Envelope(id=self.clock.new_id(), data=msgspec.Raw(b"\xc0"), actor="service:test")
        correlation = e.correlation or e.id
        meta = encode(Meta(e.id, e.causation, correlation, e.actor, e.at_us, e.trace, e.project, e.owner))
        news = tuple(NewEvent(tag_of(type(x)), type(x).VERSION, encode(x), meta) for x in events)
        row = CommandRow(e.id, encode(e), encode(reply)) if reply is not None else None
        version = len(await self.log.read_stream(stream))
        done = await self.log.append(Group((Unit(stream, version, news, row),)))
        assert not isinstance(done.stopped, Duplicate)
        position = done.positions[0] if events else 0
        if self.live and events:
            await self.publish(position - 1)
        return position

    async def publish(self, after: int) -> None:
        rows = await self.log.read_all(after)
        kinds = [row.stream.partition("-")[0] for row in rows]
        self.hub.store([
            Published(f"evt.{kind}.{row.stream}.{row.type}", f"1-{row.position}", encode(Delivered(1, row)))
            for kind, row in zip(kinds, rows, strict=True)
        ])  # fmt: skip

    async def client(self, role: str = "admin", projects: tuple[str, ...] = ("*",)) -> httpx.AsyncClient:
        row, token = new_token(f"{role}-1", Role(role), projects, 0)
        await self.tokens.add(row)
        return self.bare({"Authorization": f"Bearer {token}"})

    def bare(self, headers: dict[str, str] | None = None) -> httpx.AsyncClient:
        client = httpx.AsyncClient(base_url=self.url, headers=headers, timeout=10, trust_env=False)
        self._clients.append(client)
        return client

    async def close(self) -> None:
        for client in self._clients:
            await client.aclose()
        await self.bus.drain()
        await self.gateway.bus.drain()


@asynccontextmanager
async def rig(pool: Path, **settings: Any) -> AsyncIterator[Rig]:
    """Served on a free port of the loopback until the block ends."""
    made = Rig({"default": pool}, **settings)
    await made.compute.open()
    await made.io.open()
    await made.ha.open()
    sock = socket.socket(proto=socket.IPPROTO_TCP)  # named, so that asyncio turns Nagle off
    sock.bind(("127.0.0.1", 0))
    made.url = f"http://127.0.0.1:{sock.getsockname()[1]}"
    config = uvicorn.Config(
        asgi(made.gateway), loop="none", http="h11", ws="websockets-sansio", lifespan="on", log_config=None,
        access_log=False, timeout_graceful_shutdown=1,
    )  # fmt: skip
    server = uvicorn.Server(config)
    up = asyncio.Event()
    serving = asyncio.create_task(_serve(server, sock, up))
    await up.wait()
    try:
        yield made
    finally:
        await made.close()
        server.should_exit = True
        await serving


async def _serve(server: uvicorn.Server, sock: socket.socket, up: asyncio.Event) -> None:
    """uvicorn without its signal handlers: they belong to the test runner."""
    server.config.load()
    server.lifespan = server.config.lifespan_class(server.config)
    await server.startup([sock])
    up.set()
    await server.main_loop()
    await server.shutdown([sock])


def problem(answer: httpx.Response, status: int, reason: str = "") -> dict[str, Any]:
    """The problem, once it was seen to be a complete one."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert body["status"] == status and body["title"] and body["detail"], body
    if reason:
        assert body["reason"] == reason, body
    return body


async def run_vm(world: Rig, vm: str = "a", project: str = "default") -> None:
    envelope = Envelope(id=f"seed-{vm}", data=UNREAD, actor="user:seed", project=project, owner="seed")
    events: list[Event] = [defined(vm), start_requested(vm), started(vm)]
    await world.gateway.follower.reach(await world.tell(f"vm-{vm}", events, envelope) + 2, 2)


async def frames(answer: httpx.Response, count: int) -> list[dict[str, str]]:
    """The next frames of an event stream, comments left out."""
    found: list[dict[str, str]] = []
    one: dict[str, str] = {}
    async for line in answer.aiter_lines():
        if line and not line.startswith(":"):
            key, _, value = line.partition(": ")
            one[key] = value
        elif one:
            found.append(one)
            one = {}
            if len(found) == count:
                break
    return found
