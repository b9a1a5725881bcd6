"""Sentences about fence devices. Pure."""

from __future__ import annotations

from typing import Any

from proto import fence as f


def of_fences(event: Any) -> str:
    match event:
        case f.FenceSet():
            at = f"{event.device.address} {event.device.system}".rstrip()
            device = f"{event.device.kind} at {at}"
            return f"the fence device of {event.node} is {device} from now on; it is tested before it is believed"
        case f.FenceTestRequested():
            return f"a test of the fence device of {event.node} was asked for"
        case f.FenceTested(ok=True):
            return f"the fence device of {event.node} answers well: the power is {event.power}, the machine {event.identity}"
        case f.FenceTested():
            return f"the test of the fence device of {event.node} failed: {event.sentence}"
        case f.FenceRequested():
            reason = f": {event.reason}" if event.reason else ""
            return f"the fence device of {event.node} is asked to switch it {event.want} (attempt {event.attempt}){reason}"
        case f.FenceConfirmed():
            return f"the power of {event.node} is off: {event.sentence}"
        case f.FencePoweredOn():
            return f"the fence device of {event.node} switched it on"
        case _:
            return _of_faults(event)


def _of_faults(event: Any) -> str:
    match event:
        case f.FenceFailed(last=True):
            return f"{event.node} is not known to be {event.want}, after {event.tries} tries: {event.sentence}"
        case f.FenceFailed():
            return f"try {event.tries} to switch {event.node} {event.want} proved nothing: {event.sentence}"
        case f.FenceDropped():
            return f"the fence device of {event.node} is not asked any more: {event.sentence}"
        case f.FenceDoubted():
            return f"the fence device of {event.node} is not believed any more: {event.sentence}"
        case f.FenceRemoved():
            return f"the fence device of {event.node} was taken away"
        case _:
            return ""
