"""What a guest's screen shows right now, kept for a while as a blob."""

from __future__ import annotations

from litestar import get
from litestar.di import NamedDependency
from litestar.params import FromPath
from litestar.response import Response

from libs.common.blobs import BlobError, BlobsAway
from proto.node import AskScreenshot, Screenshot
from services.gateway.asking import ask_node
from services.gateway.auth import Action
from services.gateway.gateway import Gateway
from services.gateway.http.door import Asked
from services.gateway.problems import Problem, away, not_running

ASK_S_MAX = 15.0
KEEP_S = 7 * 86_400
PNG = b"\x89PNG\r\n\x1a\n"
DIGEST = "ASV-Blob"



@get("/{vm:str}/screenshot", action=Action.SCREENSHOT, summary="What the guest's screen shows", media_type="image/png")
async def screenshot(request: Asked, gateway: NamedDependency[Gateway], vm: FromPath[str]) -> Response[bytes]:
    """A PNG. It is kept for 7 days as a blob; the header ASV-Blob has its digest (SHA-256, hex)."""
    found = await gateway.vm(request.user, vm)
    if found.state not in ("running", "paused") or not found.node:
        raise not_running(vm, found.state)
    png = await _asked(gateway, found.node, vm)
    try:
        digest = await gateway.blobs.put("screenshot", png, KEEP_S)
        await gateway.blobs.sweep(gateway.clock.now_us())
    except BlobsAway as error:
        raise away(str(error)) from error
    except BlobError as error:
        raise Problem(507, "NO_ROOM", str(error), "blobs leave when their retention is over") from error
    headers = {DIGEST: digest, "X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}
    return Response(png, media_type="image/png", headers=headers)


async def _asked(gateway: Gateway, node: str, vm: str) -> bytes:
    """Raises Problem."""
    answer = await ask_node(gateway.bus, node, "screenshot", Screenshot, AskScreenshot(vm=vm), ASK_S_MAX)
    if answer.error:
        raise Problem(409, "NO_SCREENSHOT", answer.error, "a node's QEMU must be 7.1 or newer for this")
    if not answer.png.startswith(PNG):
        raise Problem(502, "BAD_ANSWER", f"{node} answered with something else than a PNG")
    return answer.png
