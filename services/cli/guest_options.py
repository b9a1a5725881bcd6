"""Options of `vm create` that concern what runs inside: firmware and the like."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

Cds = Annotated[list[str] | None, typer.Option("--cd", metavar="ISO", help="A CD drive with this ISO in it; may be repeated.")]
BootCd = Annotated[bool, typer.Option("--boot-cd", help="Start from the first CD, even where a disk could be started from.")]
Firmware = Annotated[str, typer.Option(help="uefi, bios, or direct (the image's own kernel). Default: what suits the image.")]
System = Annotated[
    Literal["linux", "windows", "other"] | None,
    typer.Option("--os", help="What runs inside; windows: local time, Hyper-V enlightenments on KVM, SATA CD drives."),
]
Pci = Annotated[list[str] | None, typer.Option("--pci", hidden=True)]
SecurityGroups = Annotated[list[str] | None, typer.Option("--security-group", hidden=True)]
UserData = Annotated[
    Path | None, typer.Option(help="For cloud-init, as it reads it.", exists=True, dir_okay=False, readable=True, metavar="FILE")
]
NetworkConfig = Annotated[
    Path | None, typer.Option(help="For cloud-init: networks.", exists=True, dir_okay=False, readable=True, metavar="FILE")
]
SshKeys = Annotated[
    list[Path] | None,
    typer.Option("--ssh-key", help="Public keys for cloud-init; may be repeated.", exists=True, dir_okay=False, metavar="FILE"),
]
Hostname = Annotated[str, typer.Option(help="For cloud-init; by default the VM's name.")]


def seed(user_data: Path | None, ssh_keys: list[Path] | None, hostname: str, network: Path | None) -> dict[str, Any]:
    """As the API wants it; {}: none. Raises typer.BadParameter."""
    if not (user_data or ssh_keys or hostname or network):
        return {}
    keys = [line.strip() for file in ssh_keys or () for line in _text(file).splitlines()]
    said = {"user_data": _text(user_data) if user_data else "", "network_config": _text(network) if network else ""}
    return said | {"hostname": hostname, "ssh_keys": [key for key in keys if key and not key.startswith("#")]}


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise typer.BadParameter(f"{file} is not text in UTF-8") from error


def drives(isos: list[str] | None, boot_cd: bool, system: str | None) -> list[dict[str, Any]]:
    """As the API wants them; Windows' installer reads SATA drives only. Raises typer.BadParameter."""
    bus = "sata-cdrom" if system == "windows" else "cdrom"
    if boot_cd and not isos:
        raise typer.BadParameter("--boot-cd starts from a CD; name one by --cd")
    return [
        {"image": iso, "bus": bus, "format": "raw"} | ({"first": True} if boot_cd and not number else {})
        for number, iso in enumerate(isos or ())
    ]
