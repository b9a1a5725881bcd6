"""What arrives on `order.<node>`, read and held to what an agent may act upon. Pure."""

from __future__ import annotations

import msgspec

from proto.machine import fault_of
from proto.node import Order, OrderDisksMerge, OrderDisksRemoval, OrderVm

_decode = msgspec.msgpack.Decoder(Order).decode


def read_order(data: bytes) -> Order | str:
    """The order, or in one sentence why it is none. Its file names stay inside their folders, whoever sent it."""
    try:
        order = _decode(data)
    except (msgspec.DecodeError, msgspec.ValidationError) as bad:
        return f"not an order: {bad}"
    fault = ""
    if isinstance(order, OrderVm) and order.spec is not None:
        fault = fault_of(order.spec)
    elif isinstance(order, OrderDisksRemoval | OrderDisksMerge):
        fault = fault_of(order.disks)
    return f"not an order: {fault}" if fault else order
