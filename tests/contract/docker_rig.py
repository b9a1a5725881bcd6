"""Docker: an engine, and a container that stands for a machine."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest

from proto.fence import Device, DeviceKind
from services.ha.fencing.simulated import Machines, Quirk
from tests.contract.fence_rigs import Program
from tests.servers import wait_until


class DockerRig:
    """An engine: the one that answers, else one of our own, without networks. Its containers hold one program of this machine."""

    quirks = frozenset({Quirk.NONE, Quirk.SILENT, Quirk.STRANGER})
    password = ""
    name = f"asv-fence-{os.getpid()}"

    def __init__(self, folder: Path) -> None:
        import docker

        self.machines = Machines()
        self.folder = folder
        self._engine: Program | None = None
        self._quirk = Quirk.NONE
        self.socket = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
        if not _engine_answers(self.socket):
            self.socket = self._own()
        self.api: Any = docker.DockerClient(base_url=self.socket)
        self.image = self.api.api.import_image_from_data(root_with_sleep(), repository=self.name, tag="1")
        self._silent = socket.socket(socket.AF_UNIX)
        self._silent.bind(str(folder / "silent.sock"))
        self._silent.listen()
        self._made: Any = None
        self._known = ""
        self.reset()

    def _own(self) -> str:
        if os.geteuid() != 0 or shutil.which("dockerd") is None:
            pytest.skip("no docker engine answers, and none can be started here")
        at = Path(tempfile.mkdtemp(prefix="asv-fence-", dir="/tmp"))  # short: a socket's path ends at 107 bytes
        folders = ("--data-root", str(at / "data"), "--exec-root", str(at / "exec"), "-p", str(at / "pid"))
        argv = ["dockerd", *folders, "-H", f"unix://{at}/s", "--bridge", "none", "--iptables=false"]
        self._engine = Program(argv, at)
        self._at = at
        wait_until(lambda: _engine_answers(f"unix://{at}/s"), self._engine.process, self._engine.log, "dockerd")
        return f"unix://{at}/s"

    def _run(self) -> Any:
        return self.api.containers.run(
            f"{self.name}:1", ["/bin/sleep", "100000"], name=self.name, detach=True, network_mode="none", init=True,
            restart_policy={"Name": "unless-stopped"},
        )  # fmt: skip

    def device(self) -> Device:
        if self._quirk == Quirk.SILENT:
            return Device(
                kind=DeviceKind.DOCKER, address=f"unix://{self.folder}/silent.sock", system=self.name, call_s=1.0
            )
        return Device(kind=DeviceKind.DOCKER, address=self.socket, system=self.name)

    def elsewhere(self) -> Device:
        return Device(kind=DeviceKind.DOCKER, address=f"unix://{self.folder}/nobody.sock", system=self.name)

    def truth(self) -> bool:
        """By the kernel: whether its process is there."""
        self._made.reload()
        pid = self._made.attrs["State"]["Pid"]
        return bool(pid) and Path(f"/proc/{pid}").exists()

    def reset(self) -> None:
        if self._made is not None and self._made.id == self._known and self._quirk != Quirk.STRANGER:
            self._made.start()
        else:
            self._remove()
            self._made = self._run()
            self._known = self._made.id
        self._quirk = Quirk.NONE

    def _remove(self) -> None:
        if self._made is not None:
            self._made.remove(force=True)

    def behave(self, quirk: Quirk) -> None:
        """stranger: another container has the name now."""
        self._quirk = quirk
        if quirk == Quirk.STRANGER:
            self._remove()
            self._made = self._run()

    def close(self) -> None:
        self._silent.close()
        self._remove()
        self.api.images.remove(f"{self.name}:1", force=True)
        self.api.close()
        if self._engine is not None:
            self._engine.close()
            shutil.rmtree(self._at, ignore_errors=True)


def _engine_answers(at: str) -> bool:
    import docker

    try:
        client = docker.DockerClient(base_url=at, timeout=5)
    except docker.errors.DockerException:
        return False
    try:
        return bool(client.ping())
    except docker.errors.DockerException:
        return False
    finally:
        client.close()


def root_with_sleep() -> bytes:
    """A file system with /bin/sleep and its libraries, as a tar."""
    program = shutil.which("sleep")
    assert program is not None
    listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    files = [word for word in listed.split() if word.startswith("/")]
    with tempfile.TemporaryDirectory() as at:
        root = Path(at)
        for source in (program, *files):
            target = root / ("bin/sleep" if source == program else source.lstrip("/"))
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(Path(source).resolve(), target)
        return subprocess.run(["tar", "-C", at, "-c", "."], capture_output=True, check=True).stdout
