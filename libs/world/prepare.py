"""A world in which all is well: nodes joined, the image there, VMs running. Where stories begin."""

from __future__ import annotations

from functools import partial

from libs.world.fencing import described
from libs.world.story import Story
from libs.world.world import World
from proto.compute import DefineVm, StartVm
from proto.fence import SetFence
from proto.guard import SetGuard
from proto.lease import SetHa
from proto.machine import DiskWish
from services.node.drivers.simparams import SimParams

BOOT_S = 6.0
START_S = 6.0
FENCE_S = 3.0
"""until each device was tested"""
GRACE_S = 5
"""after a start, in stories that look at guests' signs of life: they are short"""


def prepared(story: Story, variant: int = 0) -> World:
    """Raises AssertionError where it does not come up: a bug."""
    nodes, params = tuple(f"n{n + 1}" for n in range(story.nodes)), SimParams(memory_mib=story.node_mib)
    world = World(
        variant, nodes, params, apart=story.pools == "apart", two=story.pools == "two", ha=story.grantors, fences=story.fences,
        vitals=story.vitals,
    )  # fmt: skip
    for pool in (world.pool, *world.pools.values()):
        pool.locking = story.locking
    world.begin(within_us=1_000_000)
    world.run(BOOT_S)
    for n in range(story.vms):
        vm = f"vm-{n}"
        second = story.pools == "two" and n % 2 == 1
        disk = DiskWish(size_mib=64, pool="second") if second else DiskWish(image="tiny")
        define = DefineVm(vm=vm, memory_mib=512, disks=(disk,))
        world.ask("compute", f"vm-{vm}", define)
        world.net.after(300_000, partial(_start, world, vm))
    world.run(START_S)
    running = sum(len(node.host.vms) for node in world.agents.values())
    if running != story.vms:
        refused = [reply.sentence for reply in world.replies.values() if reply.status != "accepted"]
        raise AssertionError(f"{running} of {story.vms} VMs run: {refused}")
    if story.fences:
        for node in nodes:
            world.ask("ha", f"fence-{node}", SetFence(node=node, device=described(node)))
        world.run(FENCE_S)
    if story.vitals:
        for n in range(story.vms):
            world.ask("ha", f"guard-vm-{n}", SetGuard(vm=f"vm-{n}", grace_s=GRACE_S))
        world.run(GRACE_S)
    if story.ha:
        world.ask("ha", "ha-main", SetHa(**story.ha))  # type: ignore[arg-type]
        world.run(4.0)
    for process in world.services.values():
        process.keep()
    world.begun()
    return world


def _start(world: World, vm: str) -> None:
    world.ask("compute", f"vm-{vm}", StartVm(vm=vm))
