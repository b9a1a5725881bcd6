"""What events say of waves of recoveries. Pure."""

from __future__ import annotations

from typing import Any

from proto import waves as w
from services.gateway.words import count

NAMES_MAX = 10


def of_waves(event: Any) -> str:
    match event:
        case w.WaveRequested():
            order = ", ".join(step.vm for step in event.steps[:NAMES_MAX])
            more = f" and {len(event.steps) - NAMES_MAX} more" if len(event.steps) > NAMES_MAX else ""
            out = len(event.left) + event.left_more
            beside = f"; {count(out, "VM")} left out" if out else ""
            return f"{count(len(event.steps), "VM")} to be recovered, {event.at_once} at once, in this order: {order}{more}{beside}"
        case w.WaveStepBegun():
            again = f", asked for the {event.attempt}. time" if event.attempt > 1 else ""
            place = f"{event.place} of {event.of} ({event.reason}){again}"
            return f"the wave {event.wave} recovers {event.vm} from {event.backup}, {place}"
        case w.WaveStepDone():
            return f"{event.vm} of the wave {event.wave} runs, {event.first_ms} ms after its recovery was asked for"
        case w.WaveStepFailed():
            return f"the wave {event.wave} gave {event.vm} up: {event.sentence}"
        case w.WaveCancelRequested():
            return f"the wave {event.wave} is to begin nothing more"
        case w.WaveEnded():
            not_ = f", {event.failed} not" if event.failed else ""
            not_ += f", {event.unbegun} not begun" if event.unbegun else ""
            took = f"each after {event.first_ms_p50} ms (median; {event.first_ms_max} at most), the last after {event.took_s:g} s"
            return f"the wave {event.wave} is over: {event.recovered} run{not_}; {took}"
        case _:
            return ""
