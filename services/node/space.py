"""What an agent does about a VM that stands still because a pool is full. Pure; a part of model.Agent.

    running ──its write has no room──▶ no-space ──room again, and not paused by anybody──▶ resume ──▶ running
                                          ▲────────────── still none: wait longer ──────────────────────┘

Its guest knows nothing of it, and the write is kept. Nobody restarts it, and no deadline runs: it waits for as long as the pool is
full. Room is more than one byte, so that a guest does not go on and stop in turns; one that stopped again soon after it went on
waits longer each time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from proto.machine import Disk
from proto.node import OrderVm, Want
from proto.space import FullDisk, PoolNow
from services.node.drivers import NO_SPACE, MachineChanged

if TYPE_CHECKING:
    from services.node.vm import Vm

ROOM_MIB_MIN = 256
ROOM_MIB_MAX = 4096
"""What has to be free: one percent of the pool, but at least and at most so much; never more than a quarter of the pool."""
WAIT_US = 1_000_000
WAIT_MAX_US = 60_000_000
"""before a guest that stopped again goes on: doubled each time"""
STEADY_US = 60_000_000
"""one that ran for so long did not stop `again`"""


def needed_mib(size_mib: int) -> int:
    """What has to be free in a pool of that size before guests that it stopped go on."""
    return min(max(size_mib // 100, ROOM_MIB_MIN), ROOM_MIB_MAX, size_mib // 4) if size_mib > 0 else 0


def stopped(vm: Vm, pools: Mapping[str, PoolNow], now_us: int) -> None:
    """Its machine was seen without space."""
    assert vm.machine is not None
    again = vm.went_on_us and now_us - vm.went_on_us < STEADY_US
    vm.stalls = vm.stalls + 1 if again else 0
    vm.room_us = now_us + min(WAIT_US << min(vm.stalls, 10), WAIT_MAX_US) if again else now_us
    full = [disk for disk in _disks(vm) if disk.slot in vm.machine.full] or _disks(vm)
    vm.full = tuple(_full(disk, pools.get(disk.pool)) for disk in full)


def _disks(vm: Vm) -> tuple[Disk, ...]:
    order = vm.order
    return order.spec.disks if order is not None and order.spec is not None else vm.kept.disks


def _full(disk: Disk, pool: PoolNow | None) -> FullDisk:
    here = pool or PoolNow(name=disk.pool)
    return FullDisk(
        disk=disk.name, pool=disk.pool, pool_id=here.id or disk.pool_id, free_mib=here.free_mib, size_mib=here.size_mib,
        needed_mib=needed_mib(here.size_mib),
    )  # fmt: skip


def next_step(vm: Vm, order: OrderVm, pools: Mapping[str, PoolNow], now_us: int) -> str:
    """`resume` once there is room: for one that is wanted to run, and for one that is to shut down by itself meanwhile."""
    wanted = order.want is Want.RUNNING or (order.want is Want.GONE and vm.asked_us > 0)
    return "resume" if wanted and now_us >= vm.room_us and all(_has_room(one, pools) for one in vm.full) else ""


def _has_room(disk: FullDisk, pools: Mapping[str, PoolNow]) -> bool:
    """Where nobody says how much is free, it is tried."""
    pool = pools.get(disk.pool)
    if pool is None or pool.error:
        return False
    return pool.free_mib < 0 or pool.free_mib >= max(1, needed_mib(pool.size_mib))


def changed(vm: Vm, change: MachineChanged, pools: Mapping[str, PoolNow], now_us: int) -> None:
    """It stopped for want of room, or goes on."""
    assert vm.machine is not None
    vm.machine = msgspec.structs.replace(vm.machine, status=change.status, full=change.full)
    if change.status == NO_SPACE:
        stopped(vm, pools, now_us)
    else:
        vm.full = ()


def went_on(vm: Vm, now_us: int) -> None:
    """It was resumed, reset, or asked to shut down, for which it is resumed."""
    if vm.machine is not None and vm.machine.status == NO_SPACE:
        vm.machine = msgspec.structs.replace(vm.machine, status="running", full=())
    if vm.full:
        vm.went_on_us = now_us
    vm.full = ()


def waits(vm: Vm) -> bool:
    return vm.machine is not None and vm.machine.status == NO_SPACE


def forget(vm: Vm) -> None:
    """Another generation begins."""
    vm.full, vm.stalls, vm.went_on_us, vm.room_us, vm.stalled = (), 0, 0, 0, None


def keeps(vm: Vm, change: MachineChanged) -> bool:
    """It stops again before it was heard that it went on: kept until then."""
    if change.status != NO_SPACE or vm.busy not in ("resume", "reset", "shutdown"):
        return False
    vm.stalled = change
    return True


def taken(vm: Vm) -> MachineChanged | None:
    """What was kept, once nothing is being done."""
    kept, vm.stalled = vm.stalled, None
    return kept
