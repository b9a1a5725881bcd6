"""The small formats of /proc and /sys."""

from __future__ import annotations

from pathlib import Path


def parse_list(text: str) -> tuple[int, ...]:
    """`0-3,8` -> (0, 1, 2, 3, 8); empty text is an empty list."""
    numbers: list[int] = []
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        if first:
            numbers += range(int(first), int(last or first) + 1)
    return tuple(numbers)


def read(path: Path) -> str:
    """The file without its last line end; "" where it is not there or cannot be read (files of /sys come and go)."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def read_int(path: Path, otherwise: int) -> int:
    text = read(path)
    return int(text) if text.lstrip("-").isdigit() else otherwise
