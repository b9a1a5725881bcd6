"""A node is removed in good order: its agent takes away what it made of the host (control groups with their limits, swap), says
what is left, and forgets who it was. Disks, images and the host's other groups are nobody's to remove here.

    OrderLeave ──VMs run──▶ ReportLeft(refused), goes on as before
              └─none─▶ stops serving ──▶ swap off, groups gone ──▶ ReportLeft(left), repeated until heard ──▶ no credentials

Killed anywhere in between it comes back as a member, is ordered again, and goes on from what is there.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from libs.common.messages import NodeId, Reply
from proto.nodes import ReportLeft
from services.node.host import cgroup_left
from services.node.swapping import Swapping

log = logging.getLogger(__name__)

SECRETS = ("backup-keys", "backup-blanks")
"""folders of the agent's (drivers/qemu/keyring.py)"""
LEFT = "left"
"""a file in the agent's folder: it is no member any more. Whoever starts agents leaves such a one alone"""
RETRY_S = 1.0
NAMES_MAX = 5
CHARS_MAX = 300
GONE = "NODE_UNKNOWN"
"""the service has removed it already"""

type Told = Callable[[ReportLeft], Awaitable[Reply | None]]


def why_not(node: str, running: Sequence[str]) -> str:
    """"": it may leave."""
    if not running:
        return ""
    more = f" and {len(running) - NAMES_MAX} more" if len(running) > NAMES_MAX else ""
    return f"{node} still runs {', '.join(sorted(running)[:NAMES_MAX])}{more}: nothing of it was taken away"[:CHARS_MAX]


def clear(state: Path, boot_id: str) -> tuple[str, ...]:
    """Blocking, for as long as swap is read back. A sentence for each thing that stays; said again, it goes on from there."""
    try:
        swap = Swapping(state, boot_id).leave()
    except ValueError as error:
        swap = str(error)
    groups = cgroup_left.clear(state)
    return (*([f"swap: {swap}"] if swap else []), *(f"control group {said}" for said in groups))


async def tell(fact: ReportLeft, told: Told) -> Reply:
    """Until it was heard."""
    while True:
        reply = await told(fact)
        if reply is not None and reply.status != "unavailable":
            return reply
        await asyncio.sleep(RETRY_S)


async def leave(node: NodeId, state: Path, boot_id: str, told: Told) -> bool:
    """After the agent has stopped serving. False: the service does not let it go, so it is to begin again."""
    left = await asyncio.to_thread(clear, state, boot_id)
    for said in left:
        log.warning("%s leaves this behind: %s", node, said)
    reply = await tell(ReportLeft(node=node, left=tuple(said[:CHARS_MAX] for said in left[:NAMES_MAX])), told)
    if reply.status != "accepted" and reply.reason != GONE:
        log.error("%s is not let go: %s", node, reply.sentence)
        return False
    await asyncio.to_thread(_forget, node, state)
    log.info("%s has left the cluster", node)
    return True


def _forget(node: str, state: Path) -> None:
    """To come back it joins anew, with a token; its key may stay the same. What it could read of others' it can no more."""
    (state / LEFT).touch()
    for folder in SECRETS:
        shutil.rmtree(state / folder, ignore_errors=True)
    (state / "keys" / f"{node}.jwt").unlink(missing_ok=True)
