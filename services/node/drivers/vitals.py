"""What a driver counts of a guest's signs of life: totals and states at one moment, cheap enough for every few seconds. The agent
makes findings of them (services/node/vitals.py)."""

from __future__ import annotations

import msgspec

from services.node.host.threads import ThreadTime


class VitalCount(msgspec.Struct, frozen=True):
    """status: as in Machine. channel: whether something in the guest holds the agent's channel open. marks: counts of what its
    disks have done and its NICs have sent; that they are others than before is all they say. counted: it has any of those.
    ran_out: how often its watchdog has run out since it began; began: how often its guest began or went on. hold: why its silence
    says nothing just now."""

    vm: str
    generation: int
    pid: int
    status: str
    channel: bool = False
    marks: tuple[int, ...] = ()
    counted: bool = False
    vcpus: tuple[ThreadTime, ...] = ()
    ran_out: int = 0
    began: int = 1
    hold: str = ""
