"""A guest that closes its tray between two of our words: it is opened anew, and not for ever."""

from __future__ import annotations

from typing import Any

import pytest

from services.node.drivers import DriverError
from services.node.drivers.qemu import fit_cds


class Drive:
    """A running VM whose guest closes the tray so many times, each after we opened it."""

    def __init__(self, closes: int, refusal: str = "Tray of the device is not open") -> None:
        self.closes, self.refusal = closes, refusal
        self.open, self.lies = False, ""
        self.fitting = self

    async def away(self, command: str, _: dict[str, Any]) -> None:
        assert command == "blockdev-open-tray"
        self.open, self.closes = self.closes <= 0, self.closes - 1

    async def do(self, verb: str, words: dict[str, Any]) -> None:
        if not self.open:
            raise DriverError(f"web-1: {verb}: {self.refusal}")
        self.lies = words["node-name"]


async def put(drive: Drive) -> None:
    await fit_cds._when_open(drive, "blockdev-insert-medium", {"id": "disk1-dev", "node-name": "cd1-red"})  # type: ignore[arg-type]


async def test_a_tray_that_its_guest_closes_is_opened_anew() -> None:
    drive = Drive(closes=fit_cds.OPENED_MAX - 1)
    await put(drive)
    assert drive.lies == "cd1-red"


@pytest.mark.parametrize("drive", [Drive(closes=1000), Drive(closes=1, refusal="no such node")], ids=["always", "another fault"])
async def test_what_does_not_help_is_told(drive: Drive) -> None:
    with pytest.raises(DriverError):
        await put(drive)
    assert drive.lies == ""
