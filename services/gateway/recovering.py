"""A start that a recovery led to, and that was refused: it leaves no event, but its refusal lies in the log."""

from __future__ import annotations

from libs.common.log import EventLog
from services.gateway.views.recoveries import Recovery
from services.gateway.why.reading import refusals


async def refused_start(log: EventLog, one: Recovery) -> str:
    """Why no node was chosen for it; empty: one was, or none is to be yet. Raises LogError."""
    if one.state != "preparing" or not one.start or not one.disks_us or one.placed_us:
        return ""
    found = await refusals(log, f"vm-{one.target}")
    return next((no.sentence for no in found if no.command == "start_vm" and no.at_us >= one.disks_us), "")
