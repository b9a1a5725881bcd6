"""Control groups of this machine's own kernel, where it lets us make them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from services.node.host.cgroup import Groups
from services.node.host.cgroup_tree import ENFORCES, Limits, bases

CAT = shutil.which("cat") or "cat"


@pytest.fixture
def groups() -> Iterator[Groups]:
    name = f"asv-test-{os.getpid()}"
    made = Groups(name=name)
    if not made.ability().controllers:
        pytest.skip("this process may not make control groups here")
    yield made
    for base in bases():
        with suppress(OSError):
            (base.folder / name).rmdir()


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    """A process that waits for the end of its input."""
    with subprocess.Popen([CAT], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        yield process
        process.kill()


def test_what_is_not_enforced_is_what_the_controllers_leave_open(groups: Groups) -> None:
    able = groups.ability()
    missing = [word for name, words in ENFORCES.items() if name not in able.controllers for word in words]
    assert list(able.not_enforced) == missing


def test_a_process_stands_in_its_group_until_it_ends(groups: Groups, child: subprocess.Popen[bytes]) -> None:
    handle = groups.join("web-1", child.pid, Limits(cpu_weight=50, pcpus_max=0.5, memory_mib_max=64, processes_max=8))
    folders = [Path(line) for line in handle.splitlines()]
    assert folders
    for folder in folders:
        assert (folder / "cgroup.procs").read_text().split() == [str(child.pid)]
    assert not groups.remove(handle)
    child.kill()
    assert child.wait() == -signal.SIGKILL
    assert groups.remove(handle)
    assert groups.remove(handle)
    assert not any(folder.exists() for folder in folders)


def test_making_a_group_twice_changes_its_limits(groups: Groups) -> None:
    first = groups.make("web-1", Limits(memory_mib_max=64))
    assert groups.make("web-1", Limits(memory_mib_max=128)) == first
    texts = [p.read_text().strip() for line in first.splitlines() for p in Path(line).glob("memory.*max")]
    limits = [p.read_text().strip() for line in first.splitlines() for p in Path(line).glob("memory.limit_in_bytes")]
    assert groups.remove(first)
    assert "memory" not in groups.ability().controllers or str(128 << 20) in texts + limits


def test_memory_beyond_the_limit_ends_the_process_and_is_counted(groups: Groups) -> None:
    if "memory" not in groups.ability().controllers:
        pytest.skip("no memory controller here")
    handle = groups.make("web-1", Limits(memory_mib_max=32))
    line = "read _; exec head -c 200m /dev/zero | tail -c 200m >/dev/null"
    with subprocess.Popen(["/bin/sh", "-c", line], stdin=subprocess.PIPE) as process:
        assert groups.join("web-1", process.pid, Limits(memory_mib_max=32)) == handle
        process.communicate(b"\n")
    assert groups.oom_kills(handle) >= 1
    assert groups.remove(handle)
