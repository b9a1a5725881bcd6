"""Calls of libraries that block, each in a thread of its own. Threads cannot be ended: a device whose calls hang has few of them,
and is not asked any more until one comes back."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

from services.ha.fencing.device import TimedOut

HANGING_MAX = 3


class Threads:
    """Those of one device. Used from one event loop."""

    def __init__(self) -> None:
        self.running = 0

    async def run[T](self, call: Callable[[], T]) -> T:
        """Raises what the call raises; TimedOut where too many earlier ones hang. Cancelled, it leaves the thread behind."""
        if self.running >= HANGING_MAX:
            raise TimedOut(f"{self.running} earlier calls to the device hang still")
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()

        def ended(value: T | None, error: BaseException | None) -> None:
            self.running -= 1
            if done.cancelled():
                return
            if error is not None:
                done.set_exception(error)
            else:
                done.set_result(value)  # type: ignore[arg-type]

        def work() -> None:
            try:
                value, error = call(), None
            except BaseException as raised:
                value, error = None, raised
            try:
                loop.call_soon_threadsafe(ended, value, error)
            except RuntimeError:
                pass  # the loop has ended before the call did: nobody waits for it

        self.running += 1
        threading.Thread(target=work, daemon=True, name="fence device").start()
        return await done
