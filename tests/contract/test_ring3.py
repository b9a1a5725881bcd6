"""The lock at the storage: what is written of a VM goes past the host's cache and under QEMU's lock, and of several nodes that
reach for a VM one has it. Each guard is taken away once, and is missed."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest

from proto.machine import MachineSpec
from services.node.drivers import LeaseRefused, Locked
from services.node.drivers.qemu import lease
from services.node.drivers.qemu.argv import Place, build
from tests.model.test_argv import BIOS, FLASH, FULL, MEDIA, UEFI, WINDOWS

NODES = 6
EVERYWHERE = msgspec.structs.replace(FLASH, direct=frozenset({"default", "fast"}), firmware_direct=True)


def written(spec: MachineSpec, place: Place) -> list[dict[str, Any]]:
    """The files that its QEMU may write, as it is told to open them."""
    words = build("qemu-system-x86_64", spec, place)
    nodes = [msgspec.json.decode(text) for option, text in pairwise(words) if option == "-blockdev"]
    return [node for node in nodes if node["driver"] == "file" and not node["read-only"]]


@pytest.mark.parametrize("spec", [FULL, BIOS, UEFI, MEDIA, WINDOWS], ids=["full", "bios", "uefi", "media", "windows"])
def test_what_is_written_goes_past_the_cache_and_under_the_lock(spec: MachineSpec) -> None:
    found = written(spec, EVERYWHERE)
    assert found
    for node in found:
        assert node["locking"] == "on", node["filename"]
        assert node["cache"] == {"direct": True, "no-flush": False}, node["filename"]


def test_a_pool_with_the_hosts_cache_is_seen() -> None:
    assert any(not node["cache"]["direct"] for node in written(FULL, FLASH))


def contest(pool: Path, generation: int) -> list[str]:
    """The nodes that were told that the VM is theirs, all reaching for it at once under one generation."""
    gate = threading.Barrier(NODES)

    def reach(node: str) -> str:
        gate.wait()
        try:
            lease.take(pool, lease.Lease("web-1", generation, node, "boot"))
        except (LeaseRefused, Locked):
            return ""
        return node

    with ThreadPoolExecutor(NODES) as threads:
        return [node for node in threads.map(reach, [f"n{i}" for i in range(NODES)]) if node]


def test_of_several_nodes_one_has_it(tmp_path: Path) -> None:
    for generation in range(1, 30):
        winners = contest(tmp_path, generation)
        found = lease.read(tmp_path, "web-1")
        assert found is not None
        assert winners == [found.node]


def test_without_the_lock_around_the_swap_several_have_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "_lock", lambda *_: None)
    wins = []
    for generation in range(1, 200):
        try:
            wins.append(len(contest(tmp_path, generation)))
        except OSError:
            wins.append(NODES)  # their drafts are in one another's way
        if wins[-1] != 1:
            return
    pytest.fail("nothing is seen of a swap without a lock")


def test_without_comparing_the_record_falls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lease.take(tmp_path, lease.Lease("web-1", 2, "n1", "boot"))
    with pytest.raises(LeaseRefused):
        lease.take(tmp_path, lease.Lease("web-1", 1, "n2", "boot"))
    monkeypatch.setattr(lease, "_judge", lambda *_: None)
    lease.take(tmp_path, lease.Lease("web-1", 1, "n2", "boot"))
    found = lease.read(tmp_path, "web-1")
    assert found is not None
    assert found.generation == 1


def test_the_record_is_on_disk_before_a_process_exists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Durable with its name: file, then folder, each before `take` returns."""
    synced: list[str] = []
    real = os.fsync

    def fsync(fd: int) -> None:
        synced.append(Path(f"/proc/self/fd/{fd}").readlink().name)
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    lease.take(tmp_path, lease.Lease("web-1", 1, "n1", "boot"))
    assert synced == ["web-1.draft", "leases"]
