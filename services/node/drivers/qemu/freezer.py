"""The guest's file systems stand still for a moment, asked of its agent; and are never left so.

That they may stand still is on disk (Record.frozen) from before the guest is asked until it has said that it thawed them: an
agent that is killed in between leaves the mark to the next, which thaws them when it takes the VM over.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from services.node.drivers import DriverError, GuestSilent
from services.node.drivers.qemu.guest import GuestRefused, TooLarge

if TYPE_CHECKING:
    from services.node.drivers.qemu.machine import RunningVm

log = logging.getLogger(__name__)

ANSWERS_S_MAX = 2.0
"""an agent that does not answer within it is taken for none"""
FREEZE_S_MAX = 10.0
"""what is written meanwhile has to reach the disk first"""
THAW_S_MAX = 5.0
AGAIN_S, AGAIN_S_MAX = 0.5, 10.0
"""between attempts to thaw a guest that does not answer"""


class NotFrozen(DriverError):
    """Its text says why."""


class Freezer:
    """One VM's."""

    def __init__(self, vm: RunningVm) -> None:
        self._vm = vm
        self._thawing: asyncio.Task[None] | None = None

    async def freeze(self) -> int:
        """How many file systems stand still from now on. Raises NotFrozen; then none does, or it is being seen to."""
        if self._thawing is not None and not self._thawing.done():
            await asyncio.wait({self._thawing}, timeout=THAW_S_MAX)
        if self._vm.record.frozen:
            raise NotFrozen("its guest has not said yet that it thawed after an earlier one")
        if not await self._bounded(self._vm.agent.ping(ANSWERS_S_MAX), ANSWERS_S_MAX):
            raise NotFrozen(f"its guest's agent did not answer within {ANSWERS_S_MAX:g} s")
        await self._mark(True)
        try:
            count = await self._bounded(self._ask("guest-fsfreeze-freeze", FREEZE_S_MAX), FREEZE_S_MAX)
        except GuestRefused as error:
            await self.thaw()
            raise NotFrozen(f"its guest refused: {error}") from error
        if not isinstance(count, int) or count < 1:
            await self.thaw()
            silent = f"its guest did not do so within {FREEZE_S_MAX:g} s"
            raise NotFrozen(silent if count is None else "its guest has no file system to freeze")
        return count

    async def thaw(self) -> int:
        """How many went on; 0: none stood still, or the guest does not answer, and is asked again until it does."""
        try:
            count = await self._bounded(self._ask("guest-fsfreeze-thaw", THAW_S_MAX), THAW_S_MAX)
        except GuestRefused as error:
            log.warning("%s: its guest would not thaw: %s", self._vm.record.vm, error)
            count = None
        if not isinstance(count, int):
            self.see_to()
            return 0
        await self._mark(False)
        return count

    def see_to(self) -> None:
        """Thaw what an attempt, or an earlier agent, may have left standing still."""
        if self._vm.record.frozen and (self._thawing is None or self._thawing.done()):
            self._thawing = asyncio.get_running_loop().create_task(self._until_thawed())

    def close(self) -> None:
        """The mark stays for the next agent."""
        if self._thawing is not None:
            self._thawing.cancel()

    async def _until_thawed(self) -> None:
        wait_s = AGAIN_S
        while self._vm.record.frozen and not self._vm.process.ended.is_set():
            try:
                count = await self._bounded(self._ask("guest-fsfreeze-thaw", THAW_S_MAX), THAW_S_MAX)
            except GuestRefused as error:
                log.warning("%s: its guest would not thaw: %s", self._vm.record.vm, error)
                count = None
            if isinstance(count, int):
                log.info("%s: %d file systems that stood still go on", self._vm.record.vm, count)
                await self._mark(False)
                return
            await asyncio.sleep(wait_s)  # a guest has no event for it
            wait_s = min(2 * wait_s, AGAIN_S_MAX)

    async def _ask(self, command: str, timeout_s: float) -> Any:
        return await self._vm.agent.ask(command, timeout_s=timeout_s)

    async def _bounded(self, asked: Any, most_s: float) -> Any:
        """None: no answer in time, another question that is waited for included. Raises GuestRefused."""
        try:
            async with asyncio.timeout(most_s):
                return await asked
        except (TimeoutError, GuestSilent, TooLarge):
            return None

    async def _mark(self, frozen: bool) -> None:
        if self._vm.record.frozen is not frozen:
            await self._vm.remember(frozen=frozen)
