"""The typed edge, in memory (FastStream's own test broker) and on a real server beside the plain bus."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from libs.common.bus import NoResponder
from libs.common.bus import permissions as allowed
from libs.common.bus.credentials import Credentials, Key, new_seed
from libs.common.bus.edge import Edge, Problem, Unanswered, answered, ask
from libs.common.bus.identity import ClusterIdentity
from libs.common.bus.nats import NatsBus
from libs.common.clock import SystemClock
from tests.servers import NatsServer

REPOSITORY = Path(__file__).parents[2]


class AskVm(msgspec.Struct, forbid_unknown_fields=True):
    vm: str


class Vm(msgspec.Struct):
    vm: str
    vcpus: int


async def find(question: AskVm) -> Vm:
    if question.vm == "bug":
        raise ZeroDivisionError
    return {"web-1": Vm("web-1", 2)}[question.vm]


def with_query(edge: Edge) -> Edge:
    edge.query("compute", "vm", AskVm, find)
    return edge


async def test_in_memory() -> None:
    edge = with_query(Edge.to("nats://127.0.0.1:1"))
    async with edge.in_memory() as broker:
        said = await broker.request(msgspec.msgpack.encode(AskVm("web-1")), "query.compute.vm")
        assert answered(said.body, Vm) == Vm("web-1", 2)


@pytest.mark.parametrize(
    ("body", "reason", "sentence"),
    [
        (b"\xc1 no msgpack", "NOT_UNDERSTOOD", "AskVm"),
        (msgspec.msgpack.encode({"vm": 1}), "NOT_UNDERSTOOD", "Expected `str`"),
        (msgspec.msgpack.encode({"vm": "a", "node": "n1"}), "NOT_UNDERSTOOD", "unknown field"),
        (msgspec.msgpack.encode(AskVm("web-9")), "UNKNOWN", "web-9"),
        (msgspec.msgpack.encode(AskVm("bug")), "FAILED", "query.compute.vm"),
    ],
)
async def test_what_cannot_be_answered_is_said(body: bytes, reason: str, sentence: str) -> None:
    async with with_query(Edge.to("nats://127.0.0.1:1")).in_memory() as broker:
        said = await broker.request(body, "query.compute.vm")
    with pytest.raises(Unanswered, match=sentence) as caught:
        answered(said.body, Vm)
    assert caught.value.problem.reason == reason


async def test_all_questions_to_a_service_by_one_function() -> None:
    """As the service host has it: `Service.query` with its states and views bound."""

    def answer(what: str, data: bytes) -> Vm:
        if what != "vm":
            raise KeyError(what)
        return Vm(msgspec.msgpack.decode(data, type=AskVm).vm, 3)

    edge = Edge.to("nats://127.0.0.1:1")
    edge.questions("compute", answer)
    async with edge.in_memory() as broker:
        said = await broker.request(msgspec.msgpack.encode(AskVm("web-1")), "query.compute.vm")
        assert answered(said.body, Vm) == Vm("web-1", 3)
        for body, what, reason in ((b"", "dance", "UNKNOWN"), (b"\xc1", "vm", "NOT_UNDERSTOOD")):
            said = await broker.request(body, f"query.compute.{what}")
            with pytest.raises(Unanswered, match=reason):
                answered(said.body, Vm)


async def test_on_a_server_with_the_services_own_identity(tmp_path: Path) -> None:
    now_us = SystemClock().now_us()
    identity = ClusterIdentity.create(tmp_path, now_us)
    credentials = {}
    for name, grant in (("compute", allowed.service("compute")), ("gateway", allowed.gateway())):
        seed = new_seed("user")
        jwt = identity.issue_user(name, Key(seed).public, grant, now_us=now_us)
        credentials[name] = Credentials.of(name, jwt, seed)
    with NatsServer(identity.server_config()) as server:
        edge = with_query(Edge.to(server.url, credentials["compute"]))
        await edge.start()
        gateway = await NatsBus.connect(server.url, credentials["gateway"])
        assert await ask(gateway, "compute", "vm", AskVm("web-1"), Vm) == Vm("web-1", 2)
        with pytest.raises(Unanswered, match="UNKNOWN"):
            await ask(gateway, "compute", "vm", AskVm("web-9"), Vm)
        with pytest.raises(NoResponder):
            await ask(gateway, "compute", "nothing", AskVm("web-1"), Vm)
        await edge.stop()
        with pytest.raises(NoResponder):
            await ask(gateway, "compute", "vm", AskVm("web-1"), Vm)
        await gateway.drain()


def test_a_problem_is_told_from_an_answer() -> None:
    assert answered(msgspec.msgpack.encode(Vm("problem", 1)), Vm).vm == "problem"
    with pytest.raises(Unanswered):
        answered(msgspec.msgpack.encode(Problem(reason="UNKNOWN", sentence="x")), Vm)


def test_the_bus_does_not_bring_pydantic() -> None:
    program = (
        "import sys, libs.common.bus.nats, libs.common.bus.memory, libs.common.bus.identity, libs.common.telemetry\n"
        "assert not {'pydantic', 'faststream', 'fast_depends', 'opentelemetry'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=REPOSITORY)
