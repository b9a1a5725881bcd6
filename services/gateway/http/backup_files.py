"""/v1/vms/VM/backups/ID/files: what is in a backup is listed and taken out. Who asks is recorded by io first, which holds the
backup and names the node; then the node is asked. What is taken is pulled from it, as fast as the client takes it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Annotated

import msgspec
from litestar import get
from litestar.di import NamedDependency
from litestar.params import FromPath, QueryParameter
from litestar.response import Stream

from proto.backup_files import (
    PATH_CHARS_MAX,
    AskFiles,
    AskFilesNext,
    EndBackupRead,
    FileKind,
    FilesAnswer,
    FilesChunk,
    ReadBackupFiles,
)
from services.gateway.asking import ask_node
from services.gateway.auth import Action
from services.gateway.commands import Asker
from services.gateway.gateway import Gateway
from services.gateway.http.backups import find
from services.gateway.http.door import Asked, asker
from services.gateway.problems import Problem, away
from services.gateway.views.backups import BackupRead

log = logging.getLogger(__name__)

OPEN_S_MAX = 150.0
"""the node boots a file reader first, unless one is there"""
NEXT_S_MAX = 150.0
ASK_WITHIN_US = 20_000_000
"""after which a node is not asked any more for what was recorded: the backup is to be held while it reads"""
KIND = "ASV-File-Kind"

Path = Annotated[str, QueryParameter(max_length=PATH_CHARS_MAX, description="/DISK[:PARTITION]/NAME…; /: the disks")]


class ListedFile(msgspec.Struct):
    """As FileEntry, each field said."""

    name: str
    kind: FileKind
    bytes: int
    mode: int
    uid: int
    gid: int
    modified_s: int
    type: str
    label: str


class Files(msgspec.Struct):
    """What is at the path, by name. read: under which it is recorded who looked."""

    vm: str
    backup: str
    path: str
    read: str
    items: list[ListedFile]


@get("/{vm:str}/backups/{backup:str}/files", action=Action.OPERATE, live=True, summary="List a folder in a backup")
async def list_files(
    request: Asked, gateway: NamedDependency[Gateway], vm: FromPath[str], backup: FromPath[str], path: Path = "/"
) -> Files:
    """Of its file systems as they lie in it, which only a machine of the node's own mounts. It is recorded who asked for what."""
    one, _ = await _recorded(request, gateway, vm, backup, path, take=False)
    answer = await _asked(gateway, vm, one, path)
    return Files(vm, backup, path, one.id, [ListedFile(**msgspec.structs.asdict(entry)) for entry in answer.entries])


@get(
    "/{vm:str}/backups/{backup:str}/files/content", action=Action.OPERATE, live=True, summary="Take a file out of a backup",
)  # fmt: skip
async def file_content(
    request: Asked, gateway: NamedDependency[Gateway], vm: FromPath[str], backup: FromPath[str], path: Path
) -> Stream:
    """A file as it is; a folder, with all below it, as a tar (the header ASV-File-Kind says which). An answer that is cut off ends
    without its end: it is not whole. Recorded, as is how much went out."""
    one, who = await _recorded(request, gateway, vm, backup, path, take=True)
    try:
        answer = await _asked(gateway, vm, one, path)
    except BaseException as error:
        said = error.body.detail if isinstance(error, Problem) else "it was given up"
        _end(gateway, who, vm, one, 0, said)
        raise
    headers = {KIND: answer.kind.value, "X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}
    media = "application/octet-stream"
    if answer.kind is FileKind.FILE:
        headers["Content-Length"] = str(answer.bytes)
    else:
        media = "application/x-tar"
    return Stream(_content(gateway, who, vm, one, answer), media_type=media, headers=headers)


async def _recorded(
    request: Asked, gateway: Gateway, vm: str, backup: str, path: str, *, take: bool
) -> tuple[BackupRead, Asker]:
    """As io noted it. Raises Problem."""
    _, project = await find(gateway, request.user, vm, backup)
    who = asker(request, gateway)
    accepted = await gateway.commands.ask(
        who, "io", f"backups-{vm}", ReadBackupFiles(vm=vm, backup=backup, path=path, take=take), project
    )
    one = next((one for one in gateway.model.backups.reads_of(vm) if one.task == accepted.task), None)
    if one is None or gateway.clock.now_us() - one.at_us > ASK_WITHIN_US:
        raise away("what was asked for is recorded, and not seen here in time")
    return one, who


async def _asked(gateway: Gateway, vm: str, one: BackupRead, path: str) -> FilesAnswer:
    """Raises Problem."""
    ask = AskFiles(
        vm=vm, backup=one.backup, pool=one.pool, path=path, until_us=one.until_us, take=one.id if one.take else None
    )
    answer = await ask_node(gateway.bus, one.node, "files", FilesAnswer, ask, OPEN_S_MAX)
    if answer.gone:
        raise away(answer.error)
    if answer.error:
        raise Problem(409, "NOT_READ", answer.error, f"look at what there is: asvctl backup files ls {vm} {one.backup}")
    return answer


async def _content(
    gateway: Gateway, who: Asker, vm: str, one: BackupRead, answer: FilesAnswer
) -> AsyncGenerator[bytes]:
    """An error ends it without an end, so that nobody takes it for whole. The last piece goes out once the node is done: who has
    all bytes of a file goes away at once."""
    sent, last, said = 0, b"", "whoever took it went away"
    try:
        async for data in _pulled(gateway, one):
            if last:
                yield last
            sent, last = sent + len(data), data
        if answer.kind is FileKind.FILE and sent != answer.bytes:
            raise away(f"{sent} of {answer.bytes} bytes came")
        said = ""
        if last:
            yield last
    except Problem as problem:
        said = problem.body.detail
        raise
    finally:
        _end(gateway, who, vm, one, sent, said)


async def _pulled(gateway: Gateway, one: BackupRead) -> AsyncIterator[bytes]:
    """Raises Problem."""
    while True:
        if gateway.clock.now_us() >= one.until_us:
            raise away(f"it took longer than the {(one.until_us - one.at_us) // 60_000_000} min that the backup is held for it")
        chunk = await ask_node(gateway.bus, one.node, "files-next", FilesChunk, AskFilesNext(take=one.id), NEXT_S_MAX)
        if chunk.error:
            raise away(chunk.error)
        if not chunk.data:
            return
        yield chunk.data


def _end(gateway: Gateway, who: Asker, vm: str, one: BackupRead, sent: int, said: str) -> None:
    """Beside the answer, which may be over: the node is told where it was given up, and how much went out is recorded."""
    task = asyncio.get_running_loop().create_task(_ended(gateway, who, vm, one, sent, said), name=f"end of {one.id}")
    _ending.add(task)
    task.add_done_callback(_ending.discard)


_ending: set[asyncio.Task[None]] = set()
"""kept from being forgotten by the event loop, which holds tasks weakly"""


async def _ended(gateway: Gateway, who: Asker, vm: str, one: BackupRead, sent: int, said: str) -> None:
    """Where it cannot be told, the time ends it."""
    command = EndBackupRead(vm=vm, read=one.id, bytes=sent, whole=not said, sentence=said)
    try:
        if said:
            await ask_node(gateway.bus, one.node, "files-next", FilesChunk, AskFilesNext(take=one.id, give_up=True), NEXT_S_MAX)
    except Problem as problem:
        log.info("%s was not told to give up %s: %s", one.node, one.id, problem)
    try:
        await gateway.commands.ask(who, "io", f"backups-{vm}", command, one.project, id=f"{who.id}.end")
    except Problem as problem:
        log.warning("the end of %s of %s was not recorded: %s", one.id, vm, problem)


HANDLERS = [list_files, file_content]
