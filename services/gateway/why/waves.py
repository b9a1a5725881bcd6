"""What events say of waves of recoveries. Pure."""

from __future__ import annotations

from typing import Any

from proto import io
from services.gateway.words import count

NAMES_MAX = 10


def of_waves(event: Any) -> str:
    match event:
        case io.WaveRequested():
            order = ", ".join(step.vm for step in event.steps[:NAMES_MAX])
            more = f" and {len(event.steps) - NAMES_MAX} more" if len(event.steps) > NAMES_MAX else ""
            out = len(event.left) + event.left_more
            beside = f"; {count(out, "VM")} left out" if out else ""
            return f"{count(len(event.steps), "VM")} to be recovered, {event.at_once} at once, in this order: {order}{more}{beside}"
        case io.WaveStepBegun():
            again = f", asked for the {event.attempt}. time" if event.attempt > 1 else ""
            place = f"{event.place} of {event.of} ({event.reason}){again}"
            return f"the wave {event.wave} recovers {event.vm} from {event.backup}, {place}"
        case io.WaveStepDone():
            return f"{event.vm} of the wave {event.wave} runs, {event.first_ms} ms after its recovery was asked for"
        case io.WaveStepFailed():
            return f"the wave {event.wave} gave {event.vm} up: {event.sentence}"
        case io.WaveCancelRequested():
            return f"the wave {event.wave} is to begin nothing more"
        case io.WaveEnded():
            not_ = f", {event.failed} not" if event.failed else ""
            not_ += f", {event.unbegun} not begun" if event.unbegun else ""
            took = f"each after {event.first_ms_p50} ms (median; {event.first_ms_max} at most), the last after {event.took_s:g} s"
            return f"the wave {event.wave} is over: {event.recovered} run{not_}; {took}"
        case _:
            return ""
