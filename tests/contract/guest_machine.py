"""A bare QEMU around an image, for tests of what is inside: no driver of ours between."""

from __future__ import annotations

import asyncio
import base64
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
from qemu.qmp import QMPClient

from infra.guest.build import Manifest
from services.node.host.accel import Accelerator

READY_S_MAX = 60.0
"""seconds; 2 are usual, but tests share their machine"""
ANSWER_S_MAX = 30.0
CONSOLE_BYTES_MAX = 1 << 20


class Console:
    """Hears the serial console all the time: a guest whose console is not read stands still."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._text = bytearray()
        self._more = asyncio.Condition()
        self._writer = writer
        self._task = asyncio.create_task(self._hear(reader))

    async def _hear(self, reader: asyncio.StreamReader) -> None:
        while chunk := await reader.read(4096):
            async with self._more:
                self._text = (self._text + chunk)[-CONSOLE_BYTES_MAX:]
                self._more.notify_all()

    async def until(self, words: bytes) -> str:
        """The line with these words, once it is whole."""
        async with asyncio.timeout(READY_S_MAX), self._more:
            await self._more.wait_for(lambda: words in self._text and b"\n" in self._text.split(words, 1)[1])
        return next(line for line in self._text.decode(errors="replace").splitlines() if words.decode() in line)

    def write(self, data: bytes) -> None:
        self._writer.write(data)

    def close(self) -> None:
        self._task.cancel()
        self._writer.close()


class Agent:
    """The guest agent's line protocol."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def say(self, command: str, **arguments: Any) -> None:
        body: dict[str, Any] = {"execute": command, "arguments": arguments}
        self._writer.write(msgspec.json.encode(body) + b"\n")
        await self._writer.drain()

    async def ask(self, command: str, **arguments: Any) -> Any:
        await self.say(command, **arguments)
        async with asyncio.timeout(ANSWER_S_MAX):
            answer = msgspec.json.decode((await self._reader.readline()).lstrip(b"\xff"))
        assert "return" in answer, answer
        return answer["return"]

    async def sync(self) -> None:
        """Waits until the agent is there: what was written before it came is kept for it."""
        assert await self.ask("guest-sync", id=42) == 42

    async def run(self, *argv: str) -> str:
        """stdout of a program in the guest, which must end well."""
        pid = (await self.ask("guest-exec", path=argv[0], arg=argv[1:], **{"capture-output": True}))["pid"]
        async with asyncio.timeout(ANSWER_S_MAX):
            # the agent has no way to wait: each question takes a round trip through the guest
            while not (status := await self.ask("guest-exec-status", pid=pid))["exited"]:
                continue
        assert status["exitcode"] == 0, (argv, status)
        return base64.b64decode(status.get("out-data", "")).decode()


class Running:
    def __init__(self, process: asyncio.subprocess.Process, console: Console, agent: Agent, qmp: QMPClient) -> None:
        self.process, self.console, self.agent, self.qmp = process, console, agent, qmp
        self.began = time.monotonic()


@asynccontextmanager
async def running(image: Path, manifest: Manifest, accelerator: Accelerator, home: Path) -> AsyncIterator[Running]:
    """The image's machine, stopped before its first instruction until `cont`; killed at the end, and when we are killed."""
    overlay = home / "disk"
    await asyncio.to_thread(_make_disk, overlay, image / "disk.qcow2")
    words = _words(image, manifest, accelerator, overlay)
    # a socket's path must be short, that of a test's folder is not
    with tempfile.TemporaryDirectory(prefix="asv-") as sockets:
        async with _process(words, sockets) as machine:
            await machine.qmp.execute("cont")
            yield machine


def _make_disk(overlay: Path, base: Path) -> None:
    if not overlay.exists():
        words = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(base), "-F", "qcow2", str(overlay)]
        subprocess.run(words, check=True)


@asynccontextmanager
async def _process(words: list[str], sockets: str) -> AsyncIterator[Running]:
    qmp = QMPClient("guest")
    console: Console | None = None
    # QEMU dials the monitor: when it is there, so are the other sockets
    await qmp.start_server(f"{sockets}/qmp")
    process = await asyncio.create_subprocess_exec("setpriv", "--pdeathsig", "KILL", "--", *words, cwd=sockets)
    try:
        async with asyncio.timeout(ANSWER_S_MAX):
            await qmp.accept()
        console = Console(*await asyncio.open_unix_connection(f"{sockets}/serial"))
        agent = Agent(*await asyncio.open_unix_connection(f"{sockets}/agent"))
        yield Running(process, console, agent, qmp)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        if console is not None:
            console.close()
        # the connection ended with the process, which qemu.qmp tells as an error
        await asyncio.gather(qmp.disconnect(), return_exceptions=True)


def _words(image: Path, manifest: Manifest, accelerator: Accelerator, overlay: Path) -> list[str]:
    boot = manifest.boot
    return [
        *("qemu-system-x86_64", "-M", "q35", "-accel", accelerator.name, "-cpu", accelerator.cpu_model),
        *("-m", "256M,slots=2,maxmem=1G", "-smp", "1,maxcpus=2", "-nodefaults", "-no-user-config", "-display", "none"),
        *("-kernel", str(image / boot.kernel), "-initrd", str(image / boot.initrd), "-append", boot.cmdline),
        *("-chardev", "socket,id=serial,path=serial,server=on,wait=off", "-serial", "chardev:serial"),
        *("-device", "virtio-serial-pci", "-chardev", "socket,id=agent,path=agent,server=on,wait=off"),
        *("-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0"),
        *("-drive", f"file={overlay},if=none,id=disk,format=qcow2", "-device", "virtio-blk-pci,drive=disk"),
        *("-netdev", "user,id=net,restrict=on", "-device", "virtio-net-pci,netdev=net,romfile="),
        *("-device", "virtio-balloon-pci", "-device", "virtio-rng-pci", "-device", "pvpanic", "-device", "i6300esb"),
        *("-no-reboot", "-S", "-qmp", "unix:qmp"),
    ]
