"""What becomes of a guest that panics, and of one whose kernel dies without a word."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field
from typing import Any

from tests.bench.common import Options
from tests.chaos.rig import HaCluster, Unanswered
from tests.chaos.sampler import Sampler

PANICKED = ("panic-1", "panic-2", "panic-3")
"""each once: a second restart within its guard's window waits a while, on purpose"""
HUNG = "hung"
GRACE_S = 5
PANIC_S_MAX, HANG_S_MAX = 30.0, 90.0
PANIC = "setsid sh -c 'echo c >/proc/sysrq-trigger' </dev/null >/dev/null 2>&1 &"
QUIET = "rmmod pvpanic_pci pvpanic_mmio pvpanic; echo c >/proc/sysrq-trigger"
HANG = f"setsid sh -c '{QUIET}' </dev/null >/dev/null 2>&1 &"
"""its kernel dies, and nothing tells QEMU"""


@dataclass(slots=True)
class Guests:
    panic_ms: list[float] = field(default_factory=list)
    hang_s: float = 0.0


def measure(cluster: HaCluster, sampler: Sampler, found: Guests, wanted: Options) -> None:
    for vm in (HUNG, *PANICKED):
        cluster.create(vm)
        cluster.guard(vm, grace_s=GRACE_S)
    for vm in PANICKED:
        found.panic_ms.append(panic(cluster, sampler, vm) * 1000)
        wanted.say(f"  panic: restart ordered after {found.panic_ms[-1]:.0f} ms")
    found.hang_s = hang(cluster, HUNG)
    wanted.say(f"  hang: verdict after {found.hang_s:.1f} s")


def panic(cluster: HaCluster, sampler: Sampler, vm: str) -> float:
    """Seconds from the guest's end to the order of its restart, by that event's time. At a panic QEMU stops the vCPUs: when they
    last used CPU time is seen from outside."""
    cluster.boot_id(vm)
    position = cluster.position()
    (life,) = sampler.ask(lambda watch: watch.now(vm))
    tell(cluster, vm, PANIC)
    event = seen(cluster, vm, "restart_wanted", position, PANIC_S_MAX)
    return since(event) - since_boot(life.ran_s)


def hang(cluster: HaCluster, vm: str) -> float:
    """Seconds from the order upon which its kernel dies to the time of the verdict."""
    cluster.boot_id(vm)
    time.sleep(GRACE_S)  # a guest that has just started is left alone for so long
    position, began = cluster.position(), time.time()  # noqa: TID251 events carry the wall clock
    tell(cluster, vm, HANG)
    return since(seen(cluster, vm, "verdict_reached", position, HANG_S_MAX)) - began


def tell(cluster: HaCluster, vm: str, script: str) -> None:
    with contextlib.suppress(Unanswered):  # it may be gone before its answer is out
        cluster.inside(vm, script)


def seen(cluster: HaCluster, vm: str, kind: str, position: int, wait_s_max: float) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        return next((e for e in cluster.events(position) if e["type"] == kind and e["data"].get("vm") == vm), None)

    return cluster.wait_for(look, f"{kind} of {vm}", wait_s_max)


def since(event: dict[str, Any]) -> float:
    """Seconds since 1970."""
    return float(event["at_us"]) / 1e6


def since_boot(monotonic_s: float) -> float:
    """The same of a time by CLOCK_MONOTONIC."""
    return time.time() - time.monotonic() + monotonic_s  # noqa: TID251 events carry the wall clock
