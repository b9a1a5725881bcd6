"""The life of one image (stream `image-NAME`). Pure.

         import               inspected             delete
NoImage ────────▶ Importing ────────────▶ Imported ────────▶ Deleting
   ▲                  │ rejected                                 │
   └──────────────────┴────────────────────── seen removed ──────┘
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never, get_args

from msgspec.structs import replace

from libs.common.decider import Decider, Refused
from libs.common.messages import NodeId, Value
from proto.images import MakeImage
from proto.io import (
    DeleteImage,
    ImageCommand,
    ImageDeleted,
    ImageDeleteRequested,
    ImageEvent,
    ImageImported,
    ImageImportRequested,
    ImageInfo,
    ImageRejected,
    ImportImage,
    Refusal,
    ReportImage,
    ReportImageRemoved,
)
from services.io import templates

NAMES_MAX = 5
"""VMs named in one sentence."""


class State(Value, tag=True, kw_only=True):
    """version: events folded so far."""

    version: int = 0


class NoImage(State, kw_only=True):
    """Never imported, rejected, or deleted."""


class Importing(State, kw_only=True):
    """asked_version: the stream's version at the wish."""

    wish: ImageImportRequested
    asked_version: int


class Imported(State, kw_only=True):
    node: NodeId
    pool: str
    info: ImageInfo


class Deleting(State, kw_only=True):
    node: NodeId
    pool: str
    asked_version: int


Image = NoImage | Importing | Imported | Deleting


def decide(command: ImageCommand, image: Image) -> Sequence[ImageEvent]:
    match command:
        case ImportImage():
            return _import(command, image)
        case MakeImage():
            return _make(command, image)
        case DeleteImage():
            return _delete(command, image)
        case ReportImage():
            return _report(command, image)
        case ReportImageRemoved():
            if not isinstance(image, Deleting) or command.order_version < image.asked_version:
                return ()
            _check_node(command, image.node)
            return [ImageDeleted(image=command.image)]


def _import(command: ImportImage, image: Image) -> Sequence[ImageEvent]:
    match image:
        case NoImage():
            if not command.node:
                raise Refused(
                    Refusal.NO_NODE,
                    f"no node has the pool {command.pool}",
                    "join a node with that pool, or name another",
                )
            return [_wish(command, command.node)]
        case Importing():
            if _wish(command, image.wish.node) == image.wish:
                return ()
            raise _busy(command.image, "imported")
        case Imported():
            raise _known(command.image)
        case Deleting():
            raise _busy(command.image, "deleted")
        case _:
            assert_never(image)


def _make(command: MakeImage, image: Image) -> Sequence[ImageEvent]:
    match image:
        case NoImage():
            return [templates.wish(command)]
        case Importing():
            raise _busy(command.image, "made" if image.wish.source is not None else "imported")
        case Imported():
            raise _known(command.image)
        case Deleting():
            raise _busy(command.image, "deleted")
        case _:
            assert_never(image)


def _known(image: str) -> Refused:
    return Refused(Refusal.IMAGE_KNOWN, f"the image {image} exists", "take another name, or delete that image first")


def _wish(command: ImportImage, node: str) -> ImageImportRequested:
    return ImageImportRequested(
        image=command.image,
        node=NodeId(node),
        pool=command.pool,
        file=command.file,
        format=command.format,
        sha256=command.sha256 or "",
        boot=command.boot,
        disk=command.disk,
    )


def _busy(image: str, doing: str) -> Refused:
    return Refused(Refusal.IMAGE_BUSY, f"the image {image} is being {doing}", "wait until that is done")


def _delete(command: DeleteImage, image: Image) -> Sequence[ImageEvent]:
    match image:
        case NoImage():
            raise Refused(Refusal.IMAGE_UNKNOWN, f"there is no image named {command.image}", "name one that exists")
        case Importing():
            raise _busy(command.image, "imported")
        case Imported() if command.used_by:
            named = ", ".join(command.used_by[:NAMES_MAX])
            more = f" and {len(command.used_by) - NAMES_MAX} more" if len(command.used_by) > NAMES_MAX else ""
            raise Refused(
                Refusal.IMAGE_IN_USE,
                f"disks of {named}{more} stand on the image {command.image}",
                "delete those VMs first",
            )
        case Imported():
            node = NodeId(command.node) if command.node else image.node
            return [ImageDeleteRequested(image=command.image, node=node, pool=image.pool)]
        case Deleting():
            return ()
        case _:
            assert_never(image)


def _report(fact: ReportImage, image: Image) -> Sequence[ImageEvent]:
    if not isinstance(image, Importing) or fact.order_version < image.asked_version:
        return ()
    if fact.order_incarnation != fact.incarnation:
        return ()
    wish = image.wish
    _check_node(fact, wish.node)
    if fact.info is None:
        return [ImageRejected(image=fact.image, sentence=fact.sentence or "the agent gave no reason")]
    if (fact.info.source or fact.info.format) != wish.format or fact.info.format is not wish.format.kept:
        said = f"{wish.file} is {fact.info.source or fact.info.format}, announced as {wish.format}"
        return [ImageRejected(image=fact.image, sentence=said)]
    if wish.sha256 and fact.info.sha256 != wish.sha256:
        said = f"the sha256 of {wish.file} is {fact.info.sha256}, announced as {wish.sha256}"
        return [ImageRejected(image=fact.image, sentence=said)]
    there = fact.pool_ids.get(wish.pool, "")
    return [ImageImported(image=fact.image, pool=wish.pool, info=fact.info, boot=wish.boot, pool_id=there)]


def _check_node(fact: ReportImage | ReportImageRemoved, node: NodeId) -> None:
    if fact.node != node:
        raise Refused(
            Refusal.NOT_PERMITTED,
            f"{fact.node} reports on the image {fact.image}; the log names {node}",
            "report only what was ordered of this node",
        )


def evolve(image: Image, event: ImageEvent) -> Image:
    """Never refuses, never raises: an event that does not fit the state (there is none) is only counted."""
    version = image.version + 1
    match event:
        case ImageImportRequested():
            return Importing(version=version, wish=event, asked_version=version)
        case ImageImported() if isinstance(image, Importing):
            return Imported(version=version, node=image.wish.node, pool=event.pool, info=event.info)
        case ImageDeleteRequested():
            return Deleting(version=version, node=event.node, pool=event.pool, asked_version=version)
        case ImageRejected() | ImageDeleted():
            return NoImage(version=version)
        case _:
            return replace(image, version=version)


IMAGE: Decider[ImageCommand, Image, ImageEvent] = Decider(
    kind="image",
    commands=get_args(ImageCommand),
    events=get_args(ImageEvent),
    state=Image,
    key=lambda command: command.image,
    initial=NoImage(),
    decide=decide,
    evolve=evolve,
)
