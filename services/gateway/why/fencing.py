"""Sentences about fence devices. Pure."""

from __future__ import annotations

from typing import Any

from proto import fence as f


def of_fences(event: Any) -> str:
    match event:
        case f.FenceSet():
            at = f"{event.device.address} {event.device.system}".rstrip()
            return f"its fence device is {event.device.kind} at {at} from now on; it is tested before it is believed"
        case f.FenceTestRequested():
            return "a test of its fence device was asked for"
        case f.FenceTested(ok=True):
            return f"its fence device answers well: the power is {event.power}, the machine {event.identity}"
        case f.FenceTested():
            return f"the test of its fence device failed: {event.sentence}"
        case f.FenceRequested():
            reason = f": {event.reason}" if event.reason else ""
            return f"its fence device is asked to switch it {event.want} (attempt {event.attempt}){reason}"
        case f.FenceConfirmed():
            return f"its power is off: {event.sentence}"
        case f.FencePoweredOn():
            return "its fence device switched it on"
        case _:
            return _of_faults(event)


def _of_faults(event: Any) -> str:
    match event:
        case f.FenceFailed(last=True):
            return f"it is not known to be {event.want}, after {event.tries} tries: {event.sentence}"
        case f.FenceFailed():
            return f"try {event.tries} to switch it {event.want} proved nothing: {event.sentence}"
        case f.FenceDropped():
            return f"its fence device is not asked any more: {event.sentence}"
        case f.FenceDoubted():
            return f"its fence device is not believed any more: {event.sentence}"
        case f.FenceRemoved():
            return "its fence device was taken away"
        case _:
            return ""
