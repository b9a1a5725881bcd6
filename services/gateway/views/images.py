"""Images as the events tell of them. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from libs.common.messages import Recorded, decode_meta
from proto import io

ImageState = Literal["importing", "ready", "rejected", "deleting"]


class Image(msgspec.Struct):
    name: str
    project: str
    owner: str
    state: ImageState
    pool: str
    format: str
    file: str = ""
    node: str = ""
    size_mib: int = 0
    sha256: str = ""
    direct_boot: bool = False
    source: str = ""
    suggests: io.Suggestion | None = None
    reason: str = ""
    changed_us: int = 0


@dataclass(slots=True)
class ImagesView:
    all: dict[str, Image] = field(default_factory=dict)

    def apply(self, recorded: Recorded, event: Any) -> None:
        if isinstance(event, io.ImageImportRequested):
            self.all[event.image] = _importing(recorded, event)
            return
        image = self.all.get(getattr(event, "image", ""))
        if image is None:
            return
        match event:
            case io.ImageImported():
                image.state, image.format, image.reason = "ready", event.info.format, ""
                image.size_mib, image.sha256 = event.info.size_mib, event.info.sha256
                image.direct_boot = event.boot is not None
                image.source, image.suggests = event.info.source or "", event.info.suggests
            case io.ImageRejected():
                image.state, image.reason = "rejected", event.sentence
            case io.ImageDeleteRequested():
                image.state = "deleting"
            case io.ImageDeleted():
                del self.all[image.name]
        image.changed_us = recorded.at_us


def _importing(recorded: Recorded, event: io.ImageImportRequested) -> Image:
    meta = decode_meta(recorded.meta)
    return Image(
        name=event.image,
        project=meta.project,
        owner=meta.owner,
        state="importing",
        pool=event.pool,
        format=event.format,
        file="" if event.source else event.file,
        node=event.node,
        sha256=event.sha256,
        direct_boot=event.boot is not None,
        changed_us=recorded.at_us,
    )
