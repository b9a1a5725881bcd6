"""The last job, once the nodes are there: brings in the built-in image, once.

python -m infra.docker.tiny
"""

from __future__ import annotations

import asyncio
import shutil
import sys
from pathlib import Path

import httpx
import msgspec

from infra.docker import places
from services.cluster.identities import OPERATOR
from services.cluster.tiny import send

IMAGE = Path(__file__).parents[2] / ".cache" / "tiny"
API = "http://gateway:8080"
NATS_URL = f"nats://nats:{places.NATS_PORT}"
POLL_S = 0.25
WAIT_S_MAX = 180


def stage(incoming: Path) -> None:
    """Puts the image's files where nodes take images from; each one whole or not at all."""
    manifest = msgspec.json.decode((IMAGE / "manifest.json").read_bytes())
    for name in manifest["files"].keys() - {"reader.initrd"}:
        part = incoming / f".tiny-{name}"
        shutil.copyfile(IMAGE / name, part)
        part.chmod(0o640)
        part.replace(incoming / f"tiny-{name}")


async def state(api: httpx.AsyncClient) -> str:
    """Of the image as the API has it; an empty text where it knows none yet, or does not answer just now."""
    try:
        answer = await api.get("/v1/images/tiny")
    except httpx.TransportError:
        return ""
    return str(answer.json()["state"]) if answer.status_code == 200 else ""


async def nodes_online(api: httpx.AsyncClient) -> None:
    """Waits until all nodes have said what they can do."""
    while True:
        answer = await api.get("/v1/nodes")
        nodes = answer.json().get("items", [])
        if sum(bool(node.get("online") and node.get("capabilities")) for node in nodes) >= len(places.NODES):
            return
        await asyncio.sleep(POLL_S)


async def main() -> int:
    token = (places.GATEWAY_STATE / "admin.token").read_text().strip()
    async with (
        asyncio.timeout(WAIT_S_MAX),
        httpx.AsyncClient(base_url=API, headers={"Authorization": f"Bearer {token}"}) as api,
    ):
        await nodes_online(api)
        if await state(api) not in ("ready", "importing"):
            await asyncio.to_thread(stage, places.POOL / "incoming")
            reply = await send(NATS_URL, str(places.KEYS / places.TINY), OPERATOR, IMAGE)
            if reply.status != "accepted":
                print(f"tiny: {reply.reason} {reply.sentence} {reply.remedy}", file=sys.stderr)
                return 1
        while (now := await state(api)) != "ready":
            if now == "rejected":
                print("tiny: the image was rejected: `asvctl image show tiny` says why", file=sys.stderr)
                return 1
            await asyncio.sleep(POLL_S)
    print("tiny: ready")
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
