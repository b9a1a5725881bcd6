"""The watchdog's process: its settings, what it needs, and what it is as the first process of a container."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.contract.watchdog_rig import MAIN, Rig, until


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "ASV_NODE is not set"),
        ({"ASV_NODE": "n1", "ASV_STATE": "/nowhere", "ASV_POOLS": "default"}, "is not NAME=/FOLDER"),
        (
            {"ASV_NODE": "n1", "ASV_STATE": "/nowhere", "ASV_POOLS": "a=/p", "ASV_WATCH_LISTEN": "7471"},
            "is not HOST:PORT",
        ),
        (
            {"ASV_NODE": "n1", "ASV_STATE": "/nowhere", "ASV_POOLS": "a=/p", "ASV_WATCHDOG_DEVICE": "dog"},
            "no device below /dev",
        ),
    ],
)
def test_a_wrong_setting_is_named(settings: dict[str, str], said: str) -> None:
    done = subprocess.run([sys.executable, str(MAIN)], env=settings, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert said in done.stderr


def test_it_needs_nothing_but_the_standard_library(tmp_path: Path) -> None:
    """What it has loaded when it runs."""
    code = f"import sys; sys.path.insert(0, {str(MAIN.parents[2])!r}); import services.watchdog.__main__; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    tops = {name.partition(".")[0] for name in done.stdout.split()} - set(sys.stdlib_module_names) - {"__main__"}
    assert tops == {"services", "libs"}


def test_as_the_first_process_it_starts_the_agent_again_and_reaps(tmp_path: Path) -> None:
    """The agent is started anew when it ends, at an ordinary priority; what it leaves is reaped; a wrong setting ends all."""
    rig, said = Rig(tmp_path), tmp_path / "said"
    agent = f"echo $$ >>{said}; sleep 0.05 & [ $(wc -l <{said}) -lt 3 ] || exit 2; exit 1"
    environment = {
        "ASV_NODE": "n1",
        "ASV_STATE": str(rig.state),
        "ASV_POOLS": f"default={rig.pool}",
        "PATH": os.environ["PATH"],
    }
    words = [sys.executable, "-I", "-S", str(MAIN), "--", "sh", "-c", agent]
    began = time.monotonic()
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 2
    assert len(set(said.read_text().split())) == 3
    assert 2.0 <= time.monotonic() - began < 10.0


def test_as_the_first_process_it_ends_with_its_agent(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    environment = {
        "ASV_NODE": "n1",
        "ASV_STATE": str(rig.state),
        "ASV_POOLS": f"default={rig.pool}",
        "PATH": os.environ["PATH"],
    }
    ready = tmp_path / "ready"
    agent = f"trap 'echo drained >{tmp_path}/drained; exit 0' TERM; touch {ready}; while :; do sleep 0.02; done"
    words = [sys.executable, "-I", "-S", str(MAIN), "--", "sh", "-c", agent]
    process = subprocess.Popen(words, env={**environment, "ASV_READY": str(ready)})
    until(ready.exists, "the agent serves")
    policy = os.sched_getscheduler(int((tmp_path / "agent.pid").read_text()))
    process.terminate()
    assert process.wait(10) == 0
    assert policy == os.SCHED_OTHER
    assert (tmp_path / "drained").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a namespace of processes")
def test_the_first_process_of_a_container_keeps_what_its_agent_leaves(tmp_path: Path) -> None:
    """A process that an agent started lives on when that is killed, and is reaped when it ends."""
    rig, said = Rig(tmp_path), tmp_path / "said"
    first = f"setsid sleep 100 & echo $! >{said}; kill -9 $$"
    second = f"kill -9 $(cat {said}); sleep 0.5; ls /proc | grep -qx $(cat {said}) && exit 1; echo reaped >>{said}; exit 2"
    agent = f"if [ ! -e {said} ]; then {first}; fi; {second}"
    environment = {"ASV_NODE": "n1", "ASV_STATE": str(rig.state), "ASV_POOLS": f"default={rig.pool}", "PATH": os.environ["PATH"]}
    words = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-I", "-S", str(MAIN), "--", "sh", "-c", agent]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=20, check=False)
    if "unshare" in done.stderr:
        pytest.skip(done.stderr)
    assert done.returncode == 2, done.stderr
    assert "reaped" in said.read_text()


def test_what_is_no_watchdog_device_is_said(tmp_path: Path) -> None:
    environment = {"ASV_NODE": "n1", "ASV_STATE": str(tmp_path), "ASV_POOLS": f"default={tmp_path}"}
    environment["ASV_WATCHDOG_DEVICE"] = "/dev/null"
    done = subprocess.run([sys.executable, str(MAIN)], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "/dev/null is no watchdog device" in done.stderr
