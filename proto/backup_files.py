"""Files out of a backup: what is recorded of it (io, streams `backups-VM`), and what a node is asked (docs/backup-files.md).

Who reads is recorded before anything is read, and that holds the backup, with all that it stands on, until a time: no word
of the end is needed, so a gateway or a node that dies leaves no hold for ever.

A path is `/PART/NAME/NAME…`: PART is a disk's name where its file system is on the whole disk, `DISK:NUMBER` of a partition, and
`lvm:GROUP-VOLUME` of a logical volume. Names are bytes;
what is no text in UTF-8, or would move a terminal's cursor, is written as `\\xNN`, a backslash as `\\\\`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec

from libs.common.messages import Command, Event, Message, Name, NodeId, Value, VmId
from proto.backups import BackupName

PATH_CHARS_MAX = 4096
FilePath = Annotated[str, msgspec.Meta(max_length=PATH_CHARS_MAX)]
LIST_HOLD_US = 3 * 60_000_000
"""how long a backup is held of which a folder was listed"""
TAKE_HOLD_US = 60 * 60_000_000
"""how long, at most, one of which something is taken out: what takes longer is cut off"""
READS_MAX = 16
"""of one VM's backups at once"""


class FileKind(StrEnum):
    """What a name in a folder is; part: a partition, or a whole disk."""

    PART = "part"
    FILE = "file"
    FOLDER = "folder"
    LINK = "link"
    OTHER = "other"


# --- recorded ------------------------------------------------------------------------------------------------------------


class ReadBackupFiles(Command):
    """A folder is listed, or (take) what is at the path is taken out. node, at_us, keyless: filled in by io's own view, as in
    DeleteBackup."""

    vm: Name
    backup: BackupName
    path: FilePath = "/"
    take: bool = False
    node: str = ""
    at_us: int = 0
    incarnation: int = 1
    keyless: tuple[str, ...] = ()


class EndBackupRead(Command):
    """bytes: that went out; whole: all of it did, else sentence says why not."""

    vm: Name
    read: Name
    bytes: int = 0
    whole: bool = True
    sentence: str = ""


class BackupFilesRead(Event):
    """read: its name, `fINCARNATION-VERSION`; node: that reads; until_us: how long it holds the backup, at the latest."""

    vm: VmId
    backup: str
    read: str
    node: NodeId
    pool: str
    path: str
    take: bool
    at_us: int
    until_us: int


class BackupReadEnded(Event):
    vm: VmId
    backup: str
    read: str
    bytes: int
    whole: bool
    sentence: str = ""


BackupFilesCommand = ReadBackupFiles | EndBackupRead
BackupFilesEvent = BackupFilesRead | BackupReadEnded


# --- asked of a node, never recorded -------------------------------------------------------------------------------------


class AskFiles(Message):
    """`ask.NODE.files`. take: the name under which its content is asked for then; None: what is in the folder is listed.
    until_us: as it was recorded."""

    vm: Name
    backup: BackupName
    pool: Name
    path: FilePath
    until_us: int
    take: Name | None = None


class FileEntry(Value):
    """bytes: of a file, or of a part; mode: its permissions; type, label: of a part's file system, empty: none is known."""

    name: str
    kind: FileKind
    bytes: int = 0
    mode: int = 0
    uid: int = 0
    gid: int = 0
    modified_s: int = 0
    type: str = ""
    label: str = ""


class FilesAnswer(Value):
    """entries: of the folder, by name. kind, bytes: of what is taken; a folder comes as a tar, whose size nobody knows
    before. error: why not; gone: by no fault of the question."""

    entries: tuple[FileEntry, ...] = ()
    kind: FileKind = FileKind.FOLDER
    bytes: int = 0
    error: str = ""
    gone: bool = False


class AskFilesNext(Message):
    """`ask.NODE.files-next`: what comes next of what is taken. give_up: nobody wants it any more."""

    take: Name
    give_up: bool = False


class FilesChunk(Value):
    """data: empty: that was all. error: it was cut off."""

    data: bytes = b""
    error: str = ""


Ask = AskFiles | AskFilesNext
