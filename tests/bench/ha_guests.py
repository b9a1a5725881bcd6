"""What becomes of a guest that panics, and of one whose programs all stand still."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from tests.bench.common import Options
from tests.chaos.rig import HaCluster

VM = "sick"
PANICS = 3
GRACE_S = 5
HANG_S_MAX = 90.0
PANIC = "setsid sh -c 'echo c >/proc/sysrq-trigger' </dev/null >/dev/null 2>&1 &"
HANG = "setsid sh -c 'kill -STOP -1' </dev/null >/dev/null 2>&1 &"
"""all but init and itself: the guest agent among them; nothing is written any more"""


@dataclass(slots=True)
class Guests:
    panic_ms: list[float] = field(default_factory=list)
    hang_s: float = 0.0


def measure(cluster: HaCluster, found: Guests, wanted: Options) -> None:
    cluster.create(VM)
    cluster.guard(VM, grace_s=GRACE_S, failures_max=PANICS + 2)
    for _ in range(PANICS):
        before = cluster.boot_id(VM)
        found.panic_ms.append(until_event(cluster, PANIC, "restart_wanted", 20.0) * 1000)
        wanted.say(f"  panic: restart ordered after {found.panic_ms[-1]:.0f} ms")
        cluster.wait_for(lambda before=before: cluster.boot_id(VM) != before, f"{VM} to boot again")  # type: ignore[misc]
    time.sleep(GRACE_S)  # a guest that has just started is left alone for so long
    found.hang_s = until_event(cluster, HANG, "verdict_reached", HANG_S_MAX)
    wanted.say(f"  hang: verdict after {found.hang_s:.1f} s")


def until_event(cluster: HaCluster, script: str, kind: str, wait_s_max: float) -> float:
    """Seconds from the script's order to the time that the event of this VM carries."""
    position = cluster.position()
    began = time.time()  # noqa: TID251 events carry the wall clock
    cluster.inside(VM, script)

    def seen() -> dict[str, Any] | None:
        return next((e for e in cluster.events(position) if e["type"] == kind and e["data"].get("vm") == VM), None)

    event = cluster.wait_for(seen, f"{kind} of {VM}", wait_s_max)
    return float(event["at_us"] / 1e6 - began)
