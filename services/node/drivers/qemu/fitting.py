"""What every hot plug needs of a VM's monitor: what is there, taking a device away, and waiting for the guest to let it go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from proto.hardware import Misfit
from services.node.drivers import DriverError
from services.node.drivers.qemu.qmp import QmpError, QmpEvent, QmpRefused

if TYPE_CHECKING:
    from services.node.drivers.qemu.machine import RunningVm

UNPLUG_S_MAX = 5.0
"""how long a guest may take to let a device go before it counts as pending"""
PERIPHERAL = "/machine/peripheral"
AGENT = "agent"
"""the character device of its channel"""


class Fitting:
    """One VM's hardware while it runs. `hear` is told of all that the monitor says."""

    def __init__(self, vm: RunningVm) -> None:
        self.vm = vm
        self.waiting: dict[str, asyncio.Future[str]] = {}
        """device -> why the guest refused to let it go, "" once it is gone"""

    def hear(self, event: QmpEvent) -> None:
        waiting = self.waiting.get(str(event.data.get("device", "")))
        if waiting is None or waiting.done():
            return
        match event.name:
            case "DEVICE_DELETED":
                waiting.set_result("")
            case "DEVICE_UNPLUG_GUEST_ERROR":
                waiting.set_result("the guest refused to let it go")
            case "MEM_UNPLUG_ERROR":
                waiting.set_result(str(event.data.get("msg", "the guest refused to let it go"))[:200])

    async def devices(self) -> set[str]:
        """Ids of all devices that have one. Raises DriverError."""
        found = await self.vm.do("qom-list", {"path": PERIPHERAL})
        return {str(each["name"]) for each in found if str(each["type"]).startswith("child<")}

    async def agent_listens(self) -> bool:
        """Whether a program in the guest has the agent's channel open. Raises DriverError."""
        found = await self.vm.do("query-chardev")
        return any(each["label"] == AGENT and each["frontend-open"] for each in found)

    async def unplug(self, device: str) -> str:
        """Why the guest has not let it go; "": it is gone. Raises DriverError."""
        gone: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.waiting[device] = gone
        try:
            try:
                await self.vm.qmp.execute("device_del", {"id": device})
            except QmpRefused as error:
                if error.kind == "DeviceNotFound":
                    return ""
                if "unplug" not in str(error):  # else it was asked before, and the guest has not done it yet
                    raise
            async with asyncio.timeout(UNPLUG_S_MAX):
                return await gone
        except TimeoutError:
            if device not in await self.devices():
                return ""
            return f"the guest has not let it go within {UNPLUG_S_MAX:g} s"
        except (QmpError, OSError) as error:
            raise DriverError(f"{self.vm.record.vm}: {device} cannot be unplugged: {error}") from error
        finally:
            del self.waiting[device]

    async def away(self, command: str, words: dict[str, Any]) -> None:
        """Takes away what may not be there. Raises DriverError."""
        try:
            await self.vm.qmp.execute(command, words)
        except QmpRefused:
            return
        except (QmpError, OSError) as error:
            raise DriverError(f"{self.vm.record.vm}: {command}: {error}") from error


@asynccontextmanager
async def misfits(into: list[Misfit], what: str, slot: int = -1, *, pending: bool = False) -> AsyncIterator[None]:
    """What goes wrong inside becomes a Misfit about `what`; pending: it is tried again."""
    try:
        yield
    except (DriverError, OSError) as error:
        into.append(Misfit(what=what, sentence=str(error), slot=slot, pending=pending))
