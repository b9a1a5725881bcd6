"""A real QEMU on a host on which no control group for CPU time can be made: what can be applied is, and the rest is said once."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from libs.common.messages import VmId
from proto.plan import VmPlan
from services.node.drivers.qemu.driver import QemuDriver
from services.node.host.cgroup import Groups
from tests.contract.driver_rigs import QemuRig
from tests.guests import tiny_image

pytestmark = pytest.mark.skipif(
    shutil.which("qemu-system-x86_64") is None, reason="qemu-system-x86_64 is not installed"
)


async def test_affinities_are_set_and_weights_and_caps_are_said_to_be_the_nodes_lack(tmp_path: Path) -> None:
    rig = QemuRig(tmp_path / "rig", tiny_image())
    bare = Groups(root=tmp_path / "a-host-without-control-groups")
    driver = QemuDriver("n1", rig.top / "n1", {"default": rig.pool}, share=2, cache=tmp_path / "probes", groups=bare)
    await driver.open()
    try:
        await driver.start(rig.spec())
        one = (min(os.sched_getaffinity(0)),)
        plan = VmPlan(vm=VmId("web-1"), generation=1, weight=400, cap_pct=50, pcpus=one, threads=one)
        faults = await driver.schedule(plan)
        assert [(fault.part, fault.node_wide) for fault in faults] == [("weight", True), ("cap", True)]
        assert "need a writable cpu controller" in faults[0].sentence
        (seen,) = await driver.cpu()
        assert [thread.pcpus for thread in seen.vcpus] == [one] and seen.others_pcpus == one and seen.weight == 0
    finally:
        await driver.kill("web-1")
        await driver.close()
        rig.end()
