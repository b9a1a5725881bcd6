"""Sends the command that takes in the built-in image, whose files lie in the pool's `incoming` folder.

python -m services.cluster.tiny NATS_URL CREDENTIALS_FOLDER NAME IMAGE_FOLDER
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import msgspec

from libs.common.bus.credentials import Credentials
from libs.common.bus.nats import NatsBus
from libs.common.clock import SystemClock
from libs.common.messages import Envelope, Reply, decode_reply, encode
from proto.io import ImageFormat, ImportImage
from proto.machine import DirectBoot

TIMEOUT_S = 10.0


def command(folder: Path) -> ImportImage:
    """The import of the image that `infra.guest.build` made in `folder`."""
    manifest = msgspec.json.decode((folder / "manifest.json").read_bytes())
    boot = manifest["boot"]
    return ImportImage(
        image="tiny",
        file="tiny-disk.qcow2",
        format=ImageFormat(manifest["format"]),
        sha256=manifest["sha256"],
        boot=DirectBoot(kernel=f"tiny-{boot['kernel']}", initrd=f"tiny-{boot['initrd']}", cmdline=boot["cmdline"]),
    )


async def send(url: str, folder: str, name: str, image: Path) -> Reply:
    """Raises BusError, BadCredentials."""
    credentials = Credentials.load(Path(folder), name) if folder else None
    bus = await NatsBus.connect(url, credentials, name=name)
    try:
        clock = SystemClock()
        data = msgspec.Raw(encode(command(image)))
        envelope = Envelope(id=clock.new_id(), data=data, actor="user:setup", project="*", at_us=clock.now_us())
        return decode_reply(await bus.request("cmd.io.image-tiny", encode(envelope), timeout_s=TIMEOUT_S))
    finally:
        await bus.drain()


if __name__ == "__main__":
    url, folder, name, image = sys.argv[1:]
    reply = asyncio.run(send(url, folder, name, Path(image)))
    if reply.status != "accepted":
        sys.exit(f"{reply.reason} {reply.sentence} {reply.remedy}")
