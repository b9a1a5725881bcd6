"""What is to be asked of fence devices now, by what the log wants and what was done last. Pure.

It keeps nothing across a crash: an attempt that the log has open is tried again by the next process. To cut a power that is cut
already changes nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto

from services.ha.fencing.states import Fence, Job

ALL_S = 1.0
"""between two looks at devices of which nothing was asked: is their test due again?"""
TEST_EVERY_S = 3600.0
FAILED_EVERY_S = 300.0
"""a device whose last test failed: so that what was mended is seen without somebody's word"""
TOLD_S = 5.0
"""what was told and has changed nothing by then is done again"""
AT_ONCE_MAX = 32


class Due(Enum):
    TEST = auto()
    JOB = auto()


@dataclass(slots=True)
class Told:
    """What was done last for a device, and when, by the monotonic clock."""

    test: int = 0
    test_s: float = float("-inf")
    job: tuple[int, int] = (0, 0)
    job_s: float = float("-inf")


def due(fence: Fence, told: Told, now_us: int, now_s: float) -> Due | None:
    """Pure."""
    if fence.device is None:
        return None
    if (job := fence.job) is not None:
        again = told.job != (job.attempt, job.tries) or now_s - told.job_s >= TOLD_S
        return Due.JOB if again and now_us >= job.due_us else None
    if fence.noted < fence.number and (told.test != fence.number or now_s - told.test_s >= TOLD_S):
        return Due.TEST
    every_s = TEST_EVERY_S if fence.tested is not None and fence.tested.ok else FAILED_EVERY_S
    return Due.TEST if fence.noted == fence.number and now_s - told.test_s >= every_s else None


@dataclass(slots=True)
class Agenda:
    """busy: nodes whose device is being asked. One thing at a time per device, many devices at once."""

    told: dict[str, Told] = field(default_factory=dict)
    busy: set[str] = field(default_factory=set)
    all_s: float = float("-inf")

    def take(
        self, fences: Mapping[str, Fence], waiting: Collection[str], now_us: int, now_s: float
    ) -> list[tuple[str, Fence, Due]]:
        """They are busy from now on, until `tested`, `tried` or `dropped`."""
        names = waiting
        if now_s - self.all_s >= ALL_S:
            self.all_s, names = now_s, fences
        found: list[tuple[str, Fence, Due]] = []
        for node in list(names):
            if node in self.busy or len(self.busy) >= AT_ONCE_MAX or node not in fences:
                continue
            what = due(fences[node], self.told.setdefault(node, Told()), now_us, now_s)
            if what is not None:
                self.busy.add(node)
                found.append((node, fences[node], what))
        return found

    def tested(self, node: str, number: int, now_s: float) -> None:
        told = self.told[node]
        told.test, told.test_s = number, now_s
        self.busy.discard(node)

    def tried(self, node: str, job: Job, now_s: float) -> None:
        told = self.told[node]
        told.job, told.job_s = (job.attempt, job.tries), now_s
        self.busy.discard(node)

    def dropped(self, node: str) -> None:
        self.busy.discard(node)
