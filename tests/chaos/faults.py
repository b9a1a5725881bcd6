"""What is done to a cluster by `make chaos-ha`. Each fault is begun, held for a while, and undone."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from signal import SIGKILL, SIGQUIT

from services.cluster.layout import NODES
from services.cluster.processes import Mark, send
from tests.chaos.rig import HaCluster, signal_all

POOL_MIB = 2048
STEP_S_MAX = 20.0


@dataclass(frozen=True, slots=True)
class Scene:
    """What faults are played on. freezable: the shared pool is a file system of its own."""

    cluster: HaCluster
    random: Random
    freezable: bool = False

    def node(self) -> str:
        return self.random.choice(NODES)


type Play = Callable[[Scene], AbstractContextManager[str]]
"""In the block it is so; what was done is said."""


@dataclass(frozen=True, slots=True)
class Fault:
    name: str
    weight: int
    hold_s: tuple[float, float]
    play: Play


@contextlib.contextmanager
def power(scene: Scene) -> Iterator[str]:
    node = scene.node()
    scene.cluster.power_off(node)
    yield f"{node} loses its power"
    scene.cluster.lab("heal", node)


@contextlib.contextmanager
def kill_agent(scene: Scene) -> Iterator[str]:
    node = scene.node()
    send(scene.cluster.marks().get(node), SIGKILL)
    yield f"the agent of {node} is killed"


@contextlib.contextmanager
def kill_watchdog(scene: Scene) -> Iterator[str]:
    node = scene.node()
    send(scene.cluster.watchdog(node), SIGKILL)
    yield f"the watchdog of {node} is killed"


@contextlib.contextmanager
def kill_both(scene: Scene) -> Iterator[str]:
    node = scene.node()
    signal_all(scene.cluster.of_node(node), SIGKILL)
    yield f"agent and watchdog of {node} are killed, its VMs run on"


@contextlib.contextmanager
def kill_guest(scene: Scene) -> Iterator[str]:
    there = scene.cluster.guests()
    signal_all(scene.random.sample(there, min(1, len(there))), SIGKILL)
    yield "a QEMU is killed"


@contextlib.contextmanager
def kill_central(scene: Scene) -> Iterator[str]:
    name = scene.random.choice(("host", "gateway", "nats", "postgres"))
    send(scene.cluster.marks().get(name), SIGQUIT if name == "postgres" else SIGKILL)
    yield f"{name} is killed"


def holding(whom: str, choose: Callable[[Scene, str], list[Mark]]) -> Play:
    """SIGSTOP to what is chosen of a node."""

    @contextlib.contextmanager
    def play(scene: Scene) -> Iterator[str]:
        node = scene.node()
        with scene.cluster.held(choose(scene, node)):
            yield f"{whom} of {node} is held"

    return play


def some(scene: Scene, marks: list[Mark | None]) -> list[Mark]:
    return [mark for mark in marks if mark is not None]


@contextlib.contextmanager
def hold_central(scene: Scene) -> Iterator[str]:
    with scene.cluster.held(scene.cluster.central()):
        yield "engines, services and gateway are held"


@contextlib.contextmanager
def cut(scene: Scene) -> Iterator[str]:
    node = scene.node()
    scene.cluster.lab("cut", node)
    yield f"the cable of {node} is pulled"
    scene.cluster.lab("heal", node)


@contextlib.contextmanager
def stall(scene: Scene) -> Iterator[str]:
    """Writes to the shared pool wait, everywhere; reads go on."""
    with frozen(scene.cluster.layout.pool):
        yield "the shared pool takes no writes"


@contextlib.contextmanager
def cut_and_stall(scene: Scene) -> Iterator[str]:
    """Both paths of a node's lease are silent, and it lives."""
    with cut(scene) as said, stall(scene):
        yield f"{said}, and the shared pool takes no writes"


FAULTS = (
    Fault("power", 6, (1, 12), power),
    Fault("kill agent", 4, (0, 2), kill_agent),
    Fault("kill watchdog", 4, (0, 2), kill_watchdog),
    Fault("kill both", 4, (0, 4), kill_both),
    Fault("kill guest", 4, (0, 1), kill_guest),
    Fault("kill central", 4, (0, 4), kill_central),
    Fault("hold agent", 4, (1, 12), holding("the agent", lambda s, n: some(s, [s.cluster.marks().get(n)]))),
    Fault("hold watchdog", 4, (1, 12), holding("the watchdog", lambda s, n: some(s, [s.cluster.watchdog(n)]))),
    Fault("hold guests", 4, (1, 12), holding("each QEMU", lambda s, n: s.cluster.guests(n))),
    Fault("hold node", 8, (1, 16), holding("everything", lambda s, n: [*s.cluster.of_node(n), *s.cluster.guests(n)])),
    Fault("hold central", 4, (1, 12), hold_central),
    Fault("cut", 8, (1, 14), cut),
)
STALLS = (
    Fault("stall", 3, (1, 8), stall),
    Fault("cut and stall", 3, (1, 10), cut_and_stall),
)


def choose(scene: Scene) -> Fault:
    known = (*FAULTS, *STALLS) if scene.freezable else FAULTS
    return scene.random.choices(known, [fault.weight for fault in known])[0]


@contextlib.contextmanager
def frozen(folder: Path) -> Iterator[None]:
    """Root only, and a file system of its own. Raises subprocess.SubprocessError."""
    _run("fsfreeze", "--freeze", str(folder))
    try:
        yield
    finally:
        _run("fsfreeze", "--unfreeze", str(folder))


@contextlib.contextmanager
def own_file_system(folder: Path, image: Path) -> Iterator[bool]:
    """Mounts one there, in a file. False: this machine does not let us, and the folder is what it was."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with image.open("wb") as file:
            file.truncate(POOL_MIB << 20)
        _run("mkfs.ext4", "-q", "-F", str(image))
        _run("mount", "-o", "loop", str(image), str(folder))
    except (OSError, subprocess.SubprocessError):
        image.unlink(missing_ok=True)
        yield False
        return
    try:
        folder.chmod(0o755)
        yield True
    finally:
        _run("umount", str(folder))
        image.unlink()


def _run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True, timeout=STEP_S_MAX)
