"""Pictures that verdicts name: fetched from the node that took them into the blobs, as that node may be gone when somebody wants
to look."""

from __future__ import annotations

import asyncio
import hashlib
import logging

from libs.common.blobs import BlobError
from proto.node import Screenshot
from proto.vitals import AskPicture
from services.gateway.asking import ask_node
from services.gateway.gateway import Gateway
from services.gateway.problems import Problem
from services.gateway.views.verdicts import Verdict

_log = logging.getLogger(__name__)

KIND = "verdict"
KEEP_S = 30 * 86_400
ASK_S_MAX = 10.0
TRIES_MAX = 8
FRESH_US = 3_600_000_000
"""what is older and not here by now is not looked for by itself"""
PACE_S, LONG_S, AGAIN_S = 0.2, 60.0, 5.0
"""between two looks at the verdicts: however fast events come, without any, and after one that failed"""
SEEN_MAX = 10_000


async def picture(gateway: Gateway, verdict: Verdict) -> bytes:
    """From the blobs, else from its node, and then kept. Raises Problem."""
    try:
        if (blob := await gateway.blobs.get(verdict.picture)) is not None:
            return blob.data
        ask = AskPicture(vm=verdict.vm, digest=verdict.picture)
        answer = await ask_node(gateway.bus, verdict.node, "picture", Screenshot, ask, ASK_S_MAX)
        if answer.error:
            raise Problem(404, "NO_PICTURE", answer.error, "pictures are kept for 30 days, and a node keeps the last few of a VM")
        if hashlib.sha256(answer.png).hexdigest() != verdict.picture:
            raise Problem(502, "BAD_ANSWER", f"{verdict.node} answered with another picture than that of the verdict")
        await gateway.blobs.put(KIND, answer.png, KEEP_S)
    except BlobError as error:
        raise Problem(503, "AWAY", f"the picture cannot be kept: {error}", "say it again in a moment") from error
    return answer.png


async def keep_pictures(gateway: Gateway) -> None:
    """For ever: those of new verdicts. Several gateways may do so at once."""
    done: dict[str, int] = {}
    position = gateway.follower.position
    while True:
        failed = False
        for verdict in _wanted(gateway, done):
            try:
                await picture(gateway, verdict)
                done[verdict.picture] = TRIES_MAX
            except Problem as problem:
                failed = True
                done[verdict.picture] = done.get(verdict.picture, 0) + 1
                _log.info("the picture of verdict %d on %s: %s", verdict.number, verdict.vm, problem.body.detail)
        while len(done) > SEEN_MAX:
            done.pop(next(iter(done)))
        await asyncio.sleep(AGAIN_S if failed else PACE_S)
        if not failed:
            await gateway.follower.moved(position, LONG_S)
            position = gateway.follower.position
        if gateway.follower.ending.is_set():
            return


def _wanted(gateway: Gateway, done: dict[str, int]) -> list[Verdict]:
    since_us = gateway.clock.now_us() - FRESH_US
    return [
        verdict
        for verdicts in list(gateway.model.verdicts.all.values())
        for verdict in verdicts
        if verdict.picture and verdict.at_us > since_us and done.get(verdict.picture, 0) < TRIES_MAX
    ]
