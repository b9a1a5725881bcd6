"""The screens of docs/replay.md, from real processes: an embedded cluster loses a node, and its log is walked in tmux.

    python -m tests.e2e.screens [FOLDER]        writes FOLDER/*.txt; docs/replay, where none is said. It needs tmux.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from services.cluster.layout import Layout
from services.cluster.record import load
from tests.chaos.rig import HaCluster
from tests.contract.test_replay import repository
from tests.e2e.conftest import CHECKOUT, EmbeddedCluster, embedded

WIDTH, HEIGHT = 132, 36
SHOWN_S_MAX = 60.0
TINY = ("--vcpus", "1", "--memory", "128MiB", "--image", "tiny", "--wait")

type Presses = tuple[tuple[str, str], ...]
"""keys or `=TEXT` to be typed, and what is on the screen once they are heard"""

SCREENS: dict[str, Presses] = {
    "lost": (("b", "type vm_started |"), ("=type node_lost", "1 breakpoints"), ("r", "stopped by `type node_lost`")),
    "stopped": (("e", "vm_stopped v1"),),
    "owed": (("/", "text in type"), ("=vm_owed", "vm_owed v1")),
    "restart": (
        *(("B", "no breakpoints"), ("b", "type vm_started |"), ("=type vm_start_requested", "1 breakpoints")),
        *(("r", "stopped by `type vm_start_requested`"), ("w", "~ node"), ("d", "today's code decides what was recorded")),
    ),
    "cause": (("c", "restart_wanted v1"),),
    "pdb": (
        *(("x", "(Pdb)"), ("=p $command", "WantRestart("), ("=p $state.owed.node, $state.owed.cause", "NODE_LOST")),
        ("=n", "SetGuard"),
    ),
    "back": (("=c", "decided: RestartWanted"),),
}  # fmt: skip
FOOTER = "? keys  q quit"
KEPT = ("lost", "stopped", "owed", "restart", "cause", "pdb")


def failover(cluster: EmbeddedCluster) -> None:
    rig = HaCluster(home=cluster.home)
    for vm in ("web-1", "web-2", "db-1"):
        cluster.ctl("vm", "create", vm, *TINY)
    node = str(cluster.json("vm", "show", "web-1")["node"])
    rig.power_off(node)
    cluster.until(lambda: cluster.json("vm", "show", "web-1")["node"] not in ("", node), "web-1 to be placed elsewhere")
    cluster.until(lambda: cluster.json("vm", "show", "web-1")["state"] == "running", "web-1 to run")
    cluster.ctl("lab", "heal", node)
    rig.returned()


def tmux(socket: Path, *words: str) -> str:
    environ = dict(os.environ)  # said, as readline (of pdb) puts COLUMNS into what a child would get else
    done = subprocess.run(["tmux", "-S", str(socket), *words], env=environ, capture_output=True, text=True, check=True)
    return done.stdout


@contextmanager
def terminal(command: str) -> Iterator[Path]:
    """A tmux of its own that runs it. Its socket."""
    with tempfile.TemporaryDirectory() as folder:
        socket = Path(folder) / "tmux"
        tmux(socket, "new-session", "-d", "-x", str(WIDTH), "-y", str(HEIGHT), command)
        try:
            yield socket
        finally:
            tmux(socket, "kill-server")


def shown(socket: Path, awaited: str) -> str:
    """The screen, once that is on it."""
    end = time.monotonic() + SHOWN_S_MAX
    while time.monotonic() < end:
        screen = tmux(socket, "capture-pane", "-p")
        if awaited in screen:
            return screen
        time.sleep(0.1)
    raise TimeoutError(f"{awaited!r} is not shown: {screen}")


def walked(log: str) -> dict[str, str]:
    command = shlex.join((str(CHECKOUT / "asvctl"), "replay", "--step", "--log", log))
    found = {}
    with terminal(command) as socket:
        shown(socket, "event 1 ")
        for name, presses in SCREENS.items():
            for key, awaited in presses:
                if key.startswith("="):
                    tmux(socket, "send-keys", "-l", key[1:])
                    tmux(socket, "send-keys", "Enter")
                else:
                    tmux(socket, "send-keys", key)
                screen = shown(socket, awaited)
            found[name] = screen if "(Pdb)" in screen else shown(socket, FOOTER)  # the footer comes last
    return found


def changed(log: str) -> dict[str, str]:
    """What another policy's replay says of it, and which revision that came with."""
    with tempfile.TemporaryDirectory() as folder:
        commits = repository(Path(folder))
        asvctl = (sys.executable, "-m", "services.host.replay", "--log", log, "--service", "compute")
        differs = subprocess.run(asvctl, cwd=folder, env={"PYTHONPATH": folder}, capture_output=True, text=True, check=False)
        words = ("--bisect", "--good", commits[0], "--repository", folder)
        found = subprocess.run((*asvctl, *words), cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert (differs.returncode, found.returncode) == (1, 1), (differs.stderr, found.stderr)
    return {"differs": differs.stdout, "bisect": found.stderr + found.stdout}


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else CHECKOUT / "docs" / "replay")
    folder.mkdir(exist_ok=True)
    with embedded() as cluster:
        failover(cluster)
        log = load(Layout(cluster.home).record).log
        found = walked(log) | changed(log)
    for name in (*KEPT, "differs", "bisect"):
        text = "\n".join(line.rstrip() for line in found[name].rstrip().splitlines())
        (folder / f"{name}.txt").write_text(text.replace(f"{CHECKOUT}/", "") + "\n")


if __name__ == "__main__":
    main()
