"""Sizes and durations as people write them, and back. Sizes are MiB (2**20 bytes), durations seconds."""

from __future__ import annotations

import re

import typer

_MIB = {"": 1.0, "k": 1 / 1024, "m": 1.0, "g": 1024.0, "t": 1024.0 * 1024}
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([kmgt])(?:ib)?)?", re.IGNORECASE)
_DURATION = re.compile(r"(\d+)\s*([smhd]?)", re.IGNORECASE)


def mib(text: str) -> int:
    """`256MiB`, `1GiB`, `1.5g`, `2048` (MiB) as whole MiB. Raises typer.BadParameter."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        hint = " (decimal units are not used here)" if re.fullmatch(r"[\d.]+\s*[kmgt]b", text, re.IGNORECASE) else ""
        raise typer.BadParameter(f"`{text}` is not a size{hint}; write 256MiB, 1GiB, or 2048 for MiB")
    size = float(found[1]) * _MIB[(found[2] or "").lower()]
    if size != int(size) or size < 1:
        raise typer.BadParameter(f"`{text}` is not a whole number of MiB, at least 1")
    return int(size)


def seconds(text: str) -> int:
    """`90`, `90s`, `15m`, `12h`, `30d` as seconds. Raises typer.BadParameter."""
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        raise typer.BadParameter(f"`{text}` is not a duration; write 90s, 15m, 12h or 30d")
    return int(found[1]) * _SECONDS[found[2].lower()]


NIC_FORM = "NETWORK[,model=virtio|e1000e][,queues=N]"


def nic(text: str) -> dict[str, object]:
    """`user`, `blue` or `blue,queues=4` as the API wants it. Raises typer.BadParameter."""
    network, *more = text.split(",")
    found: dict[str, object] = {"network": network}
    for word in more:
        key, _, value = word.partition("=")
        if key == "queues" and value.isdigit():
            found[key] = int(value)
        elif key == "model" and value in ("virtio", "e1000e"):
            found[key] = value
        else:
            raise typer.BadParameter(f"`{text}` is not a NIC; write {NIC_FORM}, for example blue,queues=2")
    if not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", network):
        raise typer.BadParameter(f"`{text}` is not a NIC; write {NIC_FORM}: the name of a network (asvctl network ls), or user")
    return found


def part(of_mib: int | None, whole_mib: int | None) -> str:
    """`456 MiB of 6.793 GiB`; `-` where the whole is not known."""
    return f"{size(of_mib) if of_mib else '0 MiB'} of {size(whole_mib)}" if whole_mib else "-"


def count(number: int, what: str) -> str:
    """`1 move`, `2 moves`."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def size(of_mib: int | None) -> str:
    """MiB for people: `256 MiB`, `1.5 GiB`."""
    if not of_mib:
        return "-"
    for unit, scale in (("TiB", 1024 * 1024), ("GiB", 1024)):
        if of_mib >= scale:
            return f"{of_mib / scale:.4g} {unit}"
    return f"{of_mib} MiB"
