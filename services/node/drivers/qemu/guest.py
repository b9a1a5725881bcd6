"""The guest agent's channel: ping, exec, shutdown, addresses, the guest's boot id. The guest is hostile: what it says is bounded,
typed on arrival and never trusted to come at all.

After a time-out the late reply would come first to the next question. So after each of them, and on each new connection, the
client sends guest-sync-delimited with a fresh number and drops everything up to the 0xFF byte that precedes the answer to it.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from ipaddress import ip_address
from socket import socket
from typing import Any

import msgspec

from proto.node import ExecResult
from services.node.drivers import GuestSilent

REPLY_BYTES_MAX = 3 * 1024 * 1024
"""Holds two streams of STREAM_BYTES_MAX in base64."""
STREAM_BYTES_MAX = 1024 * 1024
DROPPED_BYTES_MAX = 64 * 1024 * 1024
"""How much stale output is skipped while looking for the mark of a resync (the agent itself keeps 16 MiB per program)."""
RESYNC_S, RESYNC_S_MAX = 2.0, 16.0
"""how long the first, and each later, word to get in step is waited for before it is said again; doubled each time"""
ADDRESSES_MAX = 64
STATUS_S_MIN = 2.0
"""how long an agent has at least to say whether a program has ended"""


class GuestRefused(Exception):
    """The guest agent answered with an error."""


class TooLarge(Exception):
    """A reply of more than REPLY_BYTES_MAX."""


class _Exec(msgspec.Struct):
    pid: int


class _ExecStatus(msgspec.Struct, rename="kebab"):
    exited: bool
    exitcode: int = -1
    signal: int = 0
    out_data: bytes = b""
    err_data: bytes = b""
    out_truncated: bool = False
    err_truncated: bool = False


class _Address(msgspec.Struct, rename="kebab"):
    ip_address: str


class _Interface(msgspec.Struct, rename="kebab"):
    name: str
    ip_addresses: list[_Address] = []


class _Read(msgspec.Struct, rename="kebab"):
    buf_b64: str = ""


class GuestAgent:
    """One question at a time over the channel that `dial` connects to."""

    def __init__(self, dial: Callable[[], socket]) -> None:
        self._dial = dial
        self._lock = asyncio.Lock()
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._synced = False
        self._sync_id = 0

    async def ask(self, command: str, arguments: dict[str, Any] | None = None, *, timeout_s: float = 5.0) -> Any:
        """The value of the reply. Raises GuestSilent, GuestRefused, TooLarge."""
        async with self._lock:
            try:
                async with asyncio.timeout(timeout_s):
                    await self._sync()
                    message: dict[str, Any] = {"execute": command}
                    if arguments:
                        message["arguments"] = arguments
                    self._synced = False  # until the whole reply is here
                    self._send(message)
                    reply = await self._reply()
                    self._synced = True
            except TimeoutError:
                raise GuestSilent(f"the guest agent did not answer {command} within {timeout_s} s") from None
            except (OSError, EOFError) as error:
                self.close()
                raise GuestSilent(f"the guest agent's channel is closed: {error}") from None
        if "error" in reply:
            what = reply["error"]
            raise GuestRefused(str(what.get("desc", what) if isinstance(what, dict) else what)[:4096])
        return reply.get("return")

    async def ping(self, timeout_s: float = 2.0) -> bool:
        try:
            await self.ask("guest-ping", timeout_s=timeout_s)
        except (GuestSilent, GuestRefused, TooLarge):
            return False
        return True

    async def shutdown(self, timeout_s: float = 3.0) -> bool:
        """Ask the guest to power off; it never answers when it obeys. False: nobody listens."""
        if not await self.ping(timeout_s):
            return False
        async with self._lock:
            self._synced = False
            self._send({"execute": "guest-shutdown", "arguments": {"mode": "powerdown"}})
        return True

    async def addresses(self, timeout_s: float = 2.0) -> tuple[str, ...]:
        """The guest's own word on its addresses; loopback, link-local and what is no address are left out."""
        found = msgspec.convert(await self.ask("guest-network-get-interfaces", timeout_s=timeout_s), list[_Interface])
        said = [a.ip_address for i in found for a in i.ip_addresses]
        return tuple(text for text in said[:ADDRESSES_MAX] if _outside(text))

    async def boot_id(self, timeout_s: float = 2.0) -> str:
        """The guest kernel's boot id: another one means it booted anew."""
        path = {"path": "/proc/sys/kernel/random/boot_id", "mode": "r"}
        handle = await self.ask("guest-file-open", path, timeout_s=timeout_s)
        read = await self.ask("guest-file-read", {"handle": handle, "count": 64}, timeout_s=timeout_s)
        await self.ask("guest-file-close", {"handle": handle}, timeout_s=timeout_s)
        text = base64.b64decode(msgspec.convert(read, _Read).buf_b64).decode("ascii", "replace").strip()
        return text if len(text) == 36 else ""

    async def exec(self, argv: tuple[str, ...], input: bytes, timeout_s: float) -> ExecResult:
        """Run a program for so long at most. What the program or the agent refuses is in the result; raises GuestSilent only. An
        agent that is asked about it at the very end has its time to answer all the same: the program is late, not the agent."""
        arguments: dict[str, Any] = {"path": argv[0], "arg": list(argv[1:]), "capture-output": True}
        if input:
            arguments["input-data"] = base64.b64encode(input).decode()
        loop = asyncio.get_running_loop()
        end, pause_s = loop.time() + timeout_s, 0.002
        try:
            started = await self.ask("guest-exec", arguments, timeout_s=timeout_s)
            pid = msgspec.convert(started, _Exec).pid
            while True:
                left_s = end - loop.time()
                if left_s <= 0:
                    error = f"still running after {timeout_s} s (process {pid} in the guest); its output is lost"
                    return ExecResult(exit_code=-1, error=error)
                status = await self.ask("guest-exec-status", {"pid": pid}, timeout_s=max(left_s, STATUS_S_MIN))
                done = msgspec.convert(status, _ExecStatus)
                if done.exited:
                    return _result(done)
                await asyncio.sleep(
                    min(pause_s, max(left_s, 0))
                )  # the agent has no event for it: ask again, less often
                pause_s = min(pause_s * 2, 0.2)
        except GuestRefused as error:
            return ExecResult(exit_code=127, error=str(error))
        except TooLarge:
            error_text = (
                f"more than {STREAM_BYTES_MAX} bytes of output; write it to a file in the guest and read that in parts"
            )
            return ExecResult(exit_code=-1, truncated=True, error=error_text)
        except msgspec.ValidationError as error:
            return ExecResult(exit_code=-1, error=f"the guest agent's reply makes no sense: {error}")

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None
        self._synced = False

    def _send(self, message: dict[str, Any], before: bytes = b"") -> None:
        assert self._writer is not None
        self._writer.write(before + msgspec.json.encode(message) + b"\n")

    async def _sync(self) -> None:
        if self._synced and self._reader is not None and not self._reader.at_eof():
            return
        if self._reader is None or self._reader.at_eof():
            self.close()
            self._reader, self._writer = await asyncio.open_unix_connection(sock=self._dial(), limit=64 * 1024)
        wait_s = RESYNC_S
        while not self._synced:  # a guest that has just come to this host may have answered to the one it came from
            self._sync_id += 1
            # The leading 0xFF makes the agent's parser forget half a question of an earlier client.
            self._send({"execute": "guest-sync-delimited", "arguments": {"id": self._sync_id}}, b"\xff")
            try:
                async with asyncio.timeout(wait_s):
                    await self._in_step()
            except TimeoutError:
                wait_s = min(2 * wait_s, RESYNC_S_MAX)

    async def _in_step(self) -> None:
        """Until the latest sync is answered; what was said to earlier ones is dropped."""
        dropped = 0
        while True:
            while (chunk := await self._some()) and b"\xff" not in chunk:
                dropped += len(chunk)
                if dropped > DROPPED_BYTES_MAX:
                    raise EOFError("too much stale output")
            try:
                if (await self._reply(chunk.rpartition(b"\xff")[2])).get("return") == self._sync_id:
                    break
            except TooLarge:
                continue
        self._synced = True

    async def _some(self) -> bytes:
        assert self._reader is not None
        chunk = await self._reader.read(64 * 1024)
        if not chunk:
            raise EOFError("end of file")
        return chunk

    async def _reply(self, start: bytes = b"") -> dict[str, Any]:
        """One line, of which `start` has been read. Nothing but the reply is on the way: one question at a time."""
        parts, size = [start], len(start)
        while b"\n" not in parts[-1]:
            parts.append(await self._some())
            size += len(parts[-1])
            if size > REPLY_BYTES_MAX:
                raise TooLarge
        try:
            return msgspec.json.decode(b"".join(parts).partition(b"\n")[0], type=dict[str, Any])
        except (msgspec.DecodeError, msgspec.ValidationError, RecursionError) as error:
            raise EOFError(f"not an answer of a guest agent: {error}") from None


def _outside(text: str) -> bool:
    try:
        address = ip_address(text)
    except ValueError:
        return False
    return not (address.is_loopback or address.is_link_local)


def _result(done: _ExecStatus) -> ExecResult:
    out, err = done.out_data[:STREAM_BYTES_MAX], done.err_data[:STREAM_BYTES_MAX]
    cut = done.out_truncated or done.err_truncated or len(out) < len(done.out_data) or len(err) < len(done.err_data)
    code = 128 + done.signal if done.signal else done.exitcode
    return ExecResult(exit_code=code, stdout=out, stderr=err, truncated=cut)
