"""Machines with fence devices before them, as far as they run here: what a rig of them is, and the simulated one. Each has its
quirks by the same words; a kind that cannot have one says so. The others: redfish_rig, ipmi_rig, docker_rig."""

from __future__ import annotations

import signal
import socket
import subprocess
from pathlib import Path
from typing import Protocol

from libs.common.secrets import Secret
from proto.fence import Device, DeviceKind
from services.ha.fencing.simulated import Machine, Machines, Quirk
from tests.servers import dies_with_parent

REF = Secret(ref="0" * 32)
USER, PASSWORD, WRONG = "asv", "s3cret, of all", "guessed"


class Rig(Protocol):
    """machines: for the simulated kind. quirks: those that it can have."""

    machines: Machines
    quirks: frozenset[Quirk]
    password: str

    def device(self) -> Device: ...
    def truth(self) -> bool:
        """Whether the machine runs, from elsewhere than the device."""
        ...

    def reset(self) -> None:
        """On, and honest."""
        ...

    def behave(self, quirk: Quirk) -> None: ...
    def elsewhere(self) -> Device:
        """Where nobody answers."""
        ...

    def close(self) -> None: ...


def free_port(kind: int = socket.SOCK_STREAM) -> int:
    with socket.socket(socket.AF_INET, kind) as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


class SimulatedRig:
    quirks = frozenset(Quirk)
    password = PASSWORD

    def __init__(self) -> None:
        self.machines = Machines()
        self.reset()

    def device(self) -> Device:
        return Device(kind=DeviceKind.SIMULATED, address="n1", user=USER, password=REF)

    def elsewhere(self) -> Device:
        return Device(kind=DeviceKind.SIMULATED, address="nowhere")

    def truth(self) -> bool:
        return self.machines.all["n1"].on

    def reset(self) -> None:
        self.machines.all["n1"] = Machine(identity="simulated n1", user=USER, password=PASSWORD, delay_looks=2)

    def behave(self, quirk: Quirk) -> None:
        self.machines.all["n1"].quirk = quirk

    def close(self) -> None:
        pass


class Program:
    """A program with a folder, ended by its pid."""

    def __init__(self, argv: list[str], folder: Path, env: dict[str, str] | None = None) -> None:
        self.log = folder / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                argv, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env, start_new_session=True,
                preexec_fn=dies_with_parent(signal.SIGTERM),  # noqa: PLW1509  one system call, no lock
            )  # fmt: skip

    def close(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(15)
