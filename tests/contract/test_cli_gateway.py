"""asvctl against the real thing: gateway, services, relay and an agent with the simulated driver, in this process; HTTP and
websockets on a real socket. The log and the bus are the in-memory twins."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest
import uvicorn

from libs.common.bus import Incoming
from libs.common.bus.memory import Hub, MemoryBus
from libs.common.clock import SystemClock
from libs.common.host.driver import Runner
from libs.common.host.relaying import RelayRunner
from libs.common.log.memory import MemoryLog
from libs.common.messages import Envelope, NodeId, decode_reply, encode
from proto.compute import JoinNode
from proto.images import ImageFormat
from proto.upcasts import DOWNCASTS, UPCASTS
from services.compute.app import SERVICE as COMPUTE
from services.gateway.app import asgi, gateway
from services.gateway.auth import Role
from services.gateway.tokens import MemoryTokens, new_token
from services.io.app import SERVICE as IO
from services.memory.app import SERVICE as MEMORY
from services.node.asks import Asks
from services.node.drivers.simhost import SimHost
from services.node.drivers.simparams import SimParams
from services.node.drivers.simpool import SimFile, SimPool
from services.node.drivers.simulated import SimulatedDriver
from services.node.file_asks import FileAsks
from services.node.io_asks import IoAsks
from services.node.keep import Keep
from services.node.key_asks import KeyAsks
from services.node.memory_asks import MemoryAsks
from services.node.memory_watch import MemoryWatch
from services.node.runner import AgentRunner
from tests.contract.cli_rig import Said, beside, here

ROOT = Path(__file__).parents[2]
N1 = NodeId("n1")
FILE = b"a raw image, as far as a simulated node can tell"

type Ctl = Callable[..., Awaitable[Said]]


class TakesAll(dict[str, SimFile]):
    """A simulated pool's incoming folder that finds every upload there and acceptable."""

    format = ImageFormat.RAW

    def get(self, name: str, default: Any = None) -> SimFile:
        return SimFile(self.format, 1, hashlib.sha256(FILE).hexdigest())

    def __getitem__(self, name: str) -> SimFile:
        return self.get(name)

    def __contains__(self, name: object) -> bool:
        return True


async def _node(folder: Path, hub: Hub, clock: SystemClock) -> tuple[AgentRunner, MemoryWatch, FileAsks]:
    """An agent that has joined, on a host that is quick."""
    bus = MemoryBus(hub)
    envelope = Envelope(
        id=clock.new_id(), data=msgspec.Raw(encode(JoinNode(node="n1", key="UKEY"))), actor="service:gateway"
    )
    assert decode_reply(await bus.request("cmd.compute.node-n1", encode(envelope))).status == "accepted"
    quick = SimParams(start_us=20_000, jitter_us=1, boot_us=20_000, shutdown_us=20_000)
    host = SimHost("n1", quick, Random(1), SimPool(incoming=TakesAll()))
    driver = SimulatedDriver(host, clock)
    agent = AgentRunner(N1, "boot-1", driver, Keep(folder), bus, clock, lambda: (4096, 0.1))
    asks = Asks(N1, driver, bus, clock)
    await asks.start()
    files = FileAsks(N1, driver, bus, clock)
    await files.start()
    await MemoryAsks(N1, driver, bus).start()
    await KeyAsks(N1, driver, bus, agent.renew).start()
    await IoAsks(N1, driver, bus, clock, lambda: agent.agent.vms).start()
    await agent.start()
    watch = MemoryWatch(N1, "boot-1", driver, bus, clock, lambda: agent.agent.met, agent.renew)
    await watch.start()
    return agent, watch, files


async def _questions(runner: Runner | RelayRunner, bus: MemoryBus) -> None:
    """Answered as by the typed edge (libs/common/bus/edge.py), which needs a NATS server."""

    async def answer(message: Incoming) -> None:
        await message.respond(encode(runner.question(message.subject.split(".")[2], message.data)))

    await bus.serve(f"query.{runner.name}.>", answer, queue=runner.name)


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[tuple[str, MemoryTokens]]:
    clock, hub, tokens = SystemClock(), Hub(), MemoryTokens()
    log = MemoryLog(clock.now_us)
    runners: list[Runner | RelayRunner] = [RelayRunner(log, MemoryBus(hub))]
    runners += [Runner(service, log, MemoryBus(hub), clock, UPCASTS, downcasts=DOWNCASTS) for service in (COMPUTE, MEMORY, IO)]
    for runner in runners:
        await runner.start()
        await _questions(runner, MemoryBus(hub))
    pool = tmp_path / "pool"
    pool.mkdir()
    app = asgi(gateway(log, MemoryBus(hub), clock, tokens, pools={"default": pool}))
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    server = uvicorn.Server(
        uvicorn.Config(
            app, loop="none", http="h11", ws="websockets-sansio", lifespan="on", log_config=None, access_log=False
        )
    )
    server.config.load()
    server.lifespan = server.config.lifespan_class(server.config)
    await server.startup([sock])
    serving = asyncio.create_task(server.main_loop())
    agent, watch, files = await _node(tmp_path / "kept", hub, clock)
    yield f"http://127.0.0.1:{sock.getsockname()[1]}", tokens
    server.should_exit = True
    await serving
    await server.shutdown([sock])
    await watch.stop()
    await files.stop()
    await agent.stop()
    for runner in reversed(runners):
        await runner.stop()


@pytest.fixture
async def ctl(
    api: tuple[str, MemoryTokens], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Ctl:
    row, token = new_token("root", Role.ADMIN, ("*",), 0)
    await api[1].add(row)
    return beside(here(monkeypatch, capfd, tmp_path, api[0], token))


async def test_the_life_of_a_vm(ctl: Ctl) -> None:
    said = await ctl("vm", "create", "web-1", "--memory", "128MiB", "--disk", "64MiB", "--wait")
    assert said.code == 0, said
    assert "create web-1: placed on n1" in said.err or "running" in said.out
    vm = (await ctl("vm", "show", "web-1", "--json")).json
    assert (vm["state"], vm["node"], vm["memory_mib"], vm["addresses"]) == ("running", "n1", 128, ["10.0.2.15"])
    assert "web-1  running  n1" in (await ctl("vm", "ls")).out

    for verb, state in (("pause", "paused"), ("resume", "running"), ("reset", "running"), ("stop", "stopped")):
        said = await ctl("vm", verb, "web-1", "--wait", "--timeout", "20")
        assert said.code == 0, (verb, said)
        assert (await ctl("vm", "show", "web-1", "--json")).json["state"] == state
    assert (await ctl("vm", "start", "web-1", "--wait")).code == 0
    assert (await ctl("vm", "stop", "web-1", "--force", "--wait")).code == 0
    assert (await ctl("vm", "delete", "web-1", "--wait")).code == 0
    assert (await ctl("vm", "show", "web-1")).code == 3

    kinds = [json.loads(text)["type"] for text in (await ctl("events", "--vm", "web-1", "--json")).out.splitlines()]
    assert kinds[0] == "vm_defined"
    assert {"memory_reserved", "devices_granted", "vm_started", "vm_deleted"} <= set(kinds)
    tasks = (await ctl("task", "ls", "--json")).json
    assert {task["state"] for task in tasks} == {"done"}
    assert (await ctl("task", "wait", tasks[0]["id"])).code == 0
    assert (await ctl("task", "show", tasks[-1]["id"])).out.count("\n") > 5


async def test_refusals_arrive_with_their_reason_and_code(ctl: Ctl) -> None:
    assert (await ctl("vm", "create", "web-1", "--no-start")).code == 0
    for words, code, reason in (
        (("vm", "create", "web-1", "--vcpus", "2"), 1, "ALREADY_DEFINED"),
        (("vm", "stop", "none"), 3, "UNKNOWN"),
        (("vm", "pause", "web-1"), 1, "NOT_RUNNING"),
        (("vm", "create", "Web_2"), 2, "BAD_BODY"),
        (("vm", "create", "web-2", "--image", "none", "--no-start"), 1, "NO_IMAGE"),
        (("vm", "create", "web-2", "--memory", "1MiB"), 2, "BAD_BODY"),
        (("vm", "exec", "web-1", "--", "true"), 1, "NOT_RUNNING"),
        (("--token", "0.wrong", "vm", "ls"), 5, ""),
    ):
        said = await ctl(*words)
        assert (said.code, said.out) == (code, ""), (words, said)
        assert reason in said.err
    said = await ctl("vm", "create", "big", "--memory", "4TiB", "--wait")
    assert said.code == 1, said
    assert "MiB" in said.err, "the sentence says what was there and what was needed"


async def test_inside_the_guest(ctl: Ctl, api: tuple[str, MemoryTokens]) -> None:
    assert (await ctl("vm", "create", "web-1", "--memory", "128MiB", "--disk", "8MiB", "--wait")).code == 0
    said = await ctl("vm", "exec", "web-1", "--", "uname", "-r")
    assert (said.code, said.out.strip()) == (0, "simulated"), said
    assert (await ctl("vm", "exec", "web-1", "--", "false")).code == 1
    command = [sys.executable, "-m", "services.cli", "vm", "console", "web-1"]
    done = await asyncio.to_thread(_through_the_console, command)
    assert b"hello" in done


def _through_the_console(command: list[str]) -> bytes:
    """What the console says until it has echoed; the guest's end stays open, so we leave."""
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as running:
        assert running.stdin is not None and running.stdout is not None
        running.stdin.write(b"hello\n")
        running.stdin.flush()
        said = b""
        while b"hello" not in said:
            piece = os.read(running.stdout.fileno(), 4096)
            assert piece, running.stderr.read() if running.stderr else said
            said += piece
        running.stdin.write(b"\x1d")
        running.stdin.flush()
        assert running.wait(20) == 0
    return said


async def test_where_its_memory_lies(ctl: Ctl) -> None:
    assert (await ctl("vm", "create", "web-1", "--memory", "128MiB", "--disk", "8MiB", "--wait")).code == 0
    said = await ctl("vm", "translate", "web-1", "--gva", "0xffffffff81000123")
    assert said.code == 0, said
    assert [line.split()[0] for line in said.out.splitlines()[1:5]] == [
        "guest-virtual", "guest-physical", "host-virtual", "machine",
    ]  # fmt: skip
    assert "simulated" in said.out
    shown = (await ctl("vm", "translate", "web-1", "--gva", "0xffffffff81000123", "--pid", "0", "--json")).json
    assert shown["steps"][0]["address"] == "0xffffffff81000123" and shown["simulated"]
    for words, code, reason in (
        (("--gva", "nonsense"), 2, "BAD_ADDRESS"),
        (("--gva", "0"), 1, "NOT_MAPPED"),
        (("--gva", "0x400000", "--pid", "999999"), 1, "NO_PROCESS"),
    ):
        said = await ctl("vm", "translate", "web-1", *words)
        assert (said.code, said.out) == (code, "") and reason in said.err, said
    use = (await ctl("vm", "memory", "web-1", "--json")).json
    assert (use["nominal_mib"], use["simulated"]) == (128, True)
    assert "region  below-4g  at 0x0  128 MiB  anonymous" in (await ctl("vm", "memory", "web-1")).out

    async with asyncio.timeout(10):
        while True:  # the map follows the start by a second at most
            events = [json.loads(text) for text in (await ctl("events", "--vm", "web-1", "--json")).out.splitlines()]
            if drawn := [e for e in events if e["type"] == "vm_regions_mapped"]:
                break
    assert drawn[0]["data"]["regions"] == [{"name": "below-4g", "guest_address": 0, "size_mib": 128}]
    assert (await ctl("vm", "stop", "web-1", "--force", "--wait")).code == 0
    events = [json.loads(text) for text in (await ctl("events", "--vm", "web-1", "--json")).out.splitlines()]
    assert "vm_regions_unmapped" in {e["type"] for e in events}


async def test_cpu_time_is_set_while_a_vm_runs_and_shown_on_both_levels(ctl: Ctl) -> None:
    assert (await ctl("vm", "create", "web-1", "--memory", "128MiB", "--vcpus", "2", "--wait")).code == 0
    assert (await ctl("vm", "schedule", "web-1")).code == 0
    words = ("--priority", "critical", "--cpu-cap", "150", "--pin", "2", "--pin", "5")
    said = await ctl("vm", "set", "web-1", *words, "--wait")
    assert said.code == 0, said

    async def applied() -> Any:
        while (shown := (await ctl("vm", "schedule", "web-1", "--json")).json)["cap_pct"] != 150:
            await asyncio.sleep(0.05)
        return shown

    async with asyncio.timeout(10):
        shown = await applied()
    assert (shown["weight"], shown["node"], shown["generation"]) == (800, "n1", 1)
    assert [(vcpu["vcpu"], vcpu["pcpus"]) for vcpu in shown["vcpus"]] == [(0, [2]), (1, [5])]
    assert not {2, 5} & set(shown["thread_pcpus"])
    assert "pinned to pCPUs 2, 5" in shown["plan"]["sentence"] and shown["faults"] == []
    assert "pinned to pCPUs 2, 5" in (await ctl("vm", "schedule", "web-1")).out
    assert "CPU cap 150 %" in (await ctl("vm", "show", "web-1")).out
    for wish, reason in ((("--pin", "99"), "BAD_SHAPE"), (("--cpu-reserved", "200"), "BAD_SHAPE")):
        said = await ctl("vm", "set", "web-1", *wish)
        assert (said.code, reason in said.err) == (1, True), said
    kinds = [json.loads(text)["type"] for text in (await ctl("events", "--json")).out.splitlines()]
    assert {"plan_made", "plan_applied", "vm_allotted"} <= set(kinds) and "plan_faulted" not in kinds
    seen = (await ctl("vm", "io", "web-1", "--json")).json
    assert (seen["vm"], seen["accelerator"]) == ("web-1", "simulated") and seen["window_ms"] >= 500
    assert {d["name"] for d in seen["devices"]} == {"nic0", "balloon"} and all(d["ours"] for d in seen["devices"])
    assert seen["devices"][0]["packets"][0]["per_s"] > 0
    assert (await ctl("vm", "stop", "web-1", "--force", "--wait")).code == 0
    assert (await ctl("vm", "schedule", "web-1")).code == (await ctl("vm", "io", "web-1")).code == 1


async def test_nodes_images_tokens_and_the_whole(ctl: Ctl, tmp_path: Path) -> None:
    node = (await ctl("node", "show", "n1", "--json")).json
    assert (node["name"], node["online"], node["capabilities"]["accelerator"]) == ("n1", True, "simulated")
    async with asyncio.timeout(10):
        while not (memory := (await ctl("node", "show", "n1", "--json")).json["memory"])["pressure"]:
            pass  # a beat a second
    assert memory["ledger"]["areas"] and memory["pressure"]["available_mib"] == 16384
    shown = (await ctl("node", "show", "n1")).out
    assert all(word in shown for word in ("kept by areas", "AREA", "guaranteed", "host memory", "swap of the host")), shown
    assert (await ctl("node", "cordon", "n1", "--reason", "disk", "--wait")).code == 0
    assert "online, cordoned" in (await ctl("node", "ls")).out
    assert (await ctl("node", "uncordon", "n1", "--wait")).code == 0

    file = tmp_path / "deb.raw"
    file.write_bytes(FILE)
    said = await ctl("image", "import", "deb", "--file", str(file), "--wait")
    assert said.code == 0, said
    assert [i["state"] for i in (await ctl("image", "ls", "--json")).json] == ["ready"]
    assert (await ctl("image", "delete", "deb", "--wait")).code == 0

    made = (await ctl("token", "create", "ann", "--role", "viewer", "--json")).json
    assert (await ctl("--token", made["token"], "vm", "ls")).code == 0
    assert (await ctl("--token", made["token"], "vm", "create", "x")).code == 5
    assert (await ctl("token", "revoke", made["id"])).code == 0
    assert (await ctl("--token", made["token"], "vm", "ls")).code == 5
    assert (await ctl("token", "join")).out.strip()
    assert "ann" in (await ctl("token", "ls")).out

    whole = (await ctl("cluster", "status", "--json")).json
    assert (whole["nodes"], whole["nodes_online"], whole["accelerators"]) == (1, 1, ["simulated"])
    assert (await ctl("cluster", "status")).code == 0
    assert (await ctl("schema", "--json")).json["openapi"].startswith("3")
