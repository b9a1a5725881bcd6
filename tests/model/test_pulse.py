"""What QEMU tells of a guest's life by itself."""

from __future__ import annotations

from typing import Any

from services.node.drivers.qemu import pulse
from services.node.drivers.qemu.pulse import Pulse
from services.node.drivers.qemu.qmp import QmpEvent


def heard(*names: str) -> Pulse:
    made = Pulse()
    for name in names:
        made.hear(QmpEvent(name, {}))
    return made


async def test_a_watchdog_counts_until_the_guest_begins_anew() -> None:
    assert heard("WATCHDOG", "STOP", "WATCHDOG").ran_out == 2
    again = heard("WATCHDOG", "RESET")
    assert (again.ran_out, again.began) == (0, 2)
    assert heard("STOP", "RESUME").began == 2


async def test_a_guest_that_dumps_its_memory_is_held_until_it_was_reset_or_took_too_long(monkeypatch: Any) -> None:
    assert not heard().dumps and heard("GUEST_CRASHLOADED").dumps
    assert not heard("GUEST_CRASHLOADED", "RESET").dumps
    monkeypatch.setattr(pulse, "DUMP_S_MAX", 0.0)
    assert not heard("GUEST_CRASHLOADED").dumps


def test_done_counts_what_a_guest_asked_of_its_disks_and_no_flash_chip() -> None:
    stats = {"rd_operations": 3, "wr_operations": 4, "flush_operations": 1, "unmap_operations": 0, "rd_bytes": 9}
    assert pulse._done({"qdev": "disk0-dev", "stats": stats}) == [3, 4, 1, 0]
    assert pulse._done({"node-name": "firmware-code", "stats": stats}) == []
