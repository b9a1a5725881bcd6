"""Names of files as bytes and as text (proto/backup_files.py says how), and paths taken apart. Pure."""

from __future__ import annotations

import re

NAME_BYTES_MAX = 255
NAMES_MAX = 256
"""of one path"""
_ESCAPED = re.compile(r"\\(\\|x[0-9a-f]{2})")
_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}(:[A-Za-z0-9+_.-]{1,128})?")


class BadPath(ValueError):
    """Its text is a sentence for whoever asked."""


def shown(name: bytes) -> str:
    """As text that names nothing else, and does nothing to a terminal."""
    text = name.replace(b"\\", b"\\\\").decode(errors="surrogateescape")
    return "".join(_char(char) for char in text)


def _char(char: str) -> str:
    if "\udc80" <= char <= "\udcff":
        return f"\\x{ord(char) - 0xDC00:02x}"
    return char if char.isprintable() else "".join(f"\\x{byte:02x}" for byte in char.encode())


def meant(text: str) -> bytes:
    """The name that `shown` gave the text. Raises BadPath."""
    if "\\" in _ESCAPED.sub("", text):
        raise BadPath(f"{text[:80]!r}: a backslash is written as two, a byte as \\xNN")
    try:
        name = b"".join(_bytes(word) for word in re.split(r"(\\\\|\\x[0-9a-f]{2})", text))
    except UnicodeEncodeError as error:
        raise BadPath(f"{text[:80]!r} is no text in UTF-8: a byte is written as \\xNN") from error
    if name in (b".", b"..") or b"/" in name or b"\0" in name or len(name) > NAME_BYTES_MAX:
        raise BadPath(f"{text[:80]!r} names no file: `.` and `..` are not followed, and a name has at most {NAME_BYTES_MAX} bytes")
    return name


def _bytes(word: str) -> bytes:
    if word == "\\\\":
        return b"\\"
    return bytes.fromhex(word[2:]) if word.startswith("\\x") else word.encode()


def apart(path: str) -> tuple[str, tuple[bytes, ...]]:
    """The part, and the names below; "": all parts are meant. Raises BadPath."""
    words = [word for word in path.split("/") if word]
    if not words:
        return "", ()
    if _PART.fullmatch(words[0]) is None:
        raise BadPath(f"{words[0][:80]!r} is no disk of a backup, no DISK:PARTITION and no lvm:VOLUME")
    if len(words) > NAMES_MAX:
        raise BadPath(f"the path has {len(words)} names; at most {NAMES_MAX} are followed")
    return words[0], tuple(meant(word) for word in words[1:])
