"""Random changes of a guest's hardware with its agent killed among them: the short form of `make chaos` (tests.chaos.hardware)."""

from __future__ import annotations

import pytest

from tests.chaos.hardware import CREATE, VM, Chaos
from tests.e2e.conftest import EmbeddedCluster

SEEDS = (1,)
"""and every one that ever failed"""
STEPS = 30


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", SEEDS)
def test_log_qemu_and_guest_agree_whatever_was_done(cluster: EmbeddedCluster, seed: int) -> None:
    cluster.ctl(*CREATE)
    try:
        chaos = Chaos(cluster.home, seed)
        chaos.run(STEPS)
        done = sum(number for name, number in chaos.counts.items() if not name.startswith(("refused", "ended")))
        assert done >= STEPS // 2, chaos.counts
    finally:
        cluster.ctl("vm", "stop", VM, "--force", "--wait")
        cluster.ctl("vm", "delete", VM, "--wait")
