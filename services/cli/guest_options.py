"""Options of `vm create` that concern what runs inside: firmware and the like."""

from __future__ import annotations

from typing import Annotated, Any

import typer

Cds = Annotated[list[str] | None, typer.Option("--cd", metavar="ISO", help="A CD drive with this ISO in it; may be repeated.")]
BootCd = Annotated[bool, typer.Option("--boot-cd", help="Start from the first CD, even where a disk could be started from.")]
Firmware = Annotated[str, typer.Option(help="uefi, bios, or direct (the image's own kernel). Default: what suits the image.")]


def drives(isos: list[str] | None, boot_cd: bool, bus: str = "cdrom") -> list[dict[str, Any]]:
    """As the API wants them. Raises typer.BadParameter."""
    if boot_cd and not isos:
        raise typer.BadParameter("--boot-cd starts from a CD; name one by --cd")
    return [
        {"image": iso, "bus": bus, "format": "raw"} | ({"first": True} if boot_cd and not number else {})
        for number, iso in enumerate(isos or ())
    ]
