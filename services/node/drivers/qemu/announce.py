"""A VM says where it is: switches learn its addresses at once, instead of sending its frames to where it was.

QEMU sends RARP for each NIC; a guest with a virtio NIC is asked to send gratuitous ARP and neighbour advertisements as well.
Several times, as a switch may only be learning that a port is there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from services.node.drivers import DriverError

if TYPE_CHECKING:
    from services.node.drivers.qemu.machine import RunningVm

TIMES: Final = {"initial": 50, "max": 550, "rounds": 5, "step": 100}
"""ms: before the second, at most between two, more between each two; so five times in a second"""


async def announce(vm: RunningVm, *devices: str) -> None:
    """All its NICs, or those of these ids. Where QEMU cannot be asked, it is found by what it sends."""
    only = {"interfaces": list(devices)} if devices else {}
    try:
        await vm.do("announce-self", {**TIMES, **only})
    except DriverError:
        return
