"""node: keys of backups are given to agents, and let go: what is asked of them directly. docs/backup-keys.md."""

from __future__ import annotations

from libs.common.messages import Message, Value
from proto.backups import KeyId


class AskKey(Message):
    """A key of backups is given to the node, sealed so that only this node can read it (libs/common/backup_key.py); or one that it
    has is to be forgotten. Never recorded."""

    sealed: bytes = b""
    forget: KeyId = ""


class KeyAnswer(Value):
    """key: the id of the one that it has now, or has forgotten. error: why not."""

    key: str = ""
    error: str = ""
