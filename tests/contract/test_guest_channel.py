"""The channel to a guest's agent, as bad as it can be: what was said is lost, comes late, or is the answer to somebody else."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator

import pytest

from services.node.drivers import GuestSilent
from services.node.drivers.qemu import guest
from services.node.drivers.qemu.guest import GuestAgent


class Inside:
    """A guest's agent at the other end, which loses the first answers. says: what it answers to a command, and after what time."""

    def __init__(self, loses: int) -> None:
        self.loses = loses
        self.says: dict[str, tuple[object, float]] = {}
        self.asked: list[str] = []
        self.here, self._there = socket.socketpair()
        self._task = asyncio.create_task(self._serve())

    async def _serve(self) -> None:
        reader, writer = await asyncio.open_connection(sock=self._there)
        while line := await reader.readline():
            message = json.loads(line.lstrip(b"\xff"))
            self.asked.append(message["execute"])
            answer = {"return": message.get("arguments", {}).get("id", {})}
            if said := self.says.get(message["execute"]):
                answer["return"] = said[0]
                await asyncio.sleep(said[1])
            if len(self.asked) > self.loses:
                mark = b"\xff" if message["execute"] == "guest-sync-delimited" else b""
                writer.write(mark + json.dumps(answer).encode() + b"\n")

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


@pytest.fixture
async def inside(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Inside]:
    monkeypatch.setattr(guest, "RESYNC_S", 0.02)
    made = Inside(request.param)
    yield made
    await made.close()


@pytest.mark.parametrize("inside", [0, 1, 3], indirect=True)
async def test_an_answer_that_is_lost_is_asked_for_again(inside: Inside) -> None:
    agent = GuestAgent(lambda: _ready(inside.here))
    assert await agent.ask("guest-ping", timeout_s=10.0) == {}
    assert inside.asked == ["guest-sync-delimited"] * (inside.loses + 1) + ["guest-ping"]
    assert await agent.ask("guest-info", timeout_s=10.0) == {}
    assert inside.asked[-2:] == ["guest-ping", "guest-info"], "once in step, it stays so"
    agent.close()


@pytest.mark.parametrize("inside", [1_000_000], indirect=True)
async def test_a_guest_that_never_answers_is_silent(inside: Inside) -> None:
    agent = GuestAgent(lambda: _ready(inside.here))
    with pytest.raises(GuestSilent, match="did not answer guest-ping within"):
        await agent.ask("guest-ping", timeout_s=0.3)
    assert 1 < len(inside.asked) < 10 and set(inside.asked) == {"guest-sync-delimited"}
    agent.close()


@pytest.mark.parametrize("inside", [0], indirect=True)
async def test_an_agent_that_is_asked_at_the_very_end_has_time_to_answer(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guest, "STATUS_S_MIN", 20.0)
    inside.says = {"guest-exec": ({"pid": 7}, 0.0), "guest-exec-status": ({"exited": True, "exitcode": 3}, 0.4)}
    agent = GuestAgent(lambda: _ready(inside.here))
    done = await agent.exec(("true",), b"", 0.2)
    assert (done.exit_code, done.error) == (3, "")
    agent.close()


@pytest.mark.parametrize("inside", [0], indirect=True)
async def test_a_program_that_takes_longer_is_late_and_the_agent_is_not_silent(inside: Inside) -> None:
    inside.says = {"guest-exec": ({"pid": 7}, 0.0), "guest-exec-status": ({"exited": False}, 0.0)}
    agent = GuestAgent(lambda: _ready(inside.here))
    done = await agent.exec(("sleep", "9"), b"", 0.2)
    assert done.exit_code == -1 and "still running after 0.2 s (process 7 in the guest)" in done.error
    agent.close()


def _ready(sock: socket.socket) -> socket.socket:
    sock.setblocking(False)
    return sock
