"""The options that say what a new VM is made of, for `vm create`, and what they are to the API."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from services.cli import units

Vcpus = Annotated[int, typer.Option(help="Virtual CPUs at start.", min=1, max=512)]
Memory = Annotated[int, typer.Option(parser=units.mib, metavar="SIZE", help="256MiB, 1GiB; a bare number is MiB.")]
Image = Annotated[str, typer.Option(help="Image of the first disk, for example tiny.")]
Disks = Annotated[
    list[str] | None,
    typer.Option(metavar="SIZE[,KEY=VALUE…]", help="A disk; may be repeated. Keys: image, bus, pool, iops, mibps, …_burst."),
]
Nics = Annotated[
    list[str] | None,
    typer.Option(metavar=units.NIC_FORM, help="A network card; may be repeated. Default: user, which isolates it."),
]
NoNic = Annotated[bool, typer.Option("--no-nic", help="No network card at all.")]
Priority = Annotated[str, typer.Option(help="critical, important, normal or best-effort.")]
VcpusMax = Annotated[int, typer.Option(help="CPUs that can be plugged in later, these included.", min=0, max=512)]
MemoryMax = Annotated[int | None, typer.Option(parser=units.mib, metavar="SIZE", help="Memory it can grow to.")]
MemoryBy = Annotated[
    Literal["virtio-mem", "dimm"] | None,
    typer.Option(help="What memory grows by; dimm: for guests without a virtio-mem driver."),
]

_WORDS = ("image", "bus", "pool", "format")
_LIMITS = ("iops", "mibps", "iops_burst", "mibps_burst")


def disk(text: str) -> dict[str, Any]:
    """`10GiB`, or `10GiB,bus=nvme,pool=local,iops=500`, or `image=tiny,bus=nvme` as the API wants it. Raises typer.BadParameter."""
    made: dict[str, Any] = {}
    for part in text.split(","):
        key, equals, value = part.partition("=")
        key = key.replace("-", "_")
        if not equals and "size_mib" not in made:
            made["size_mib"] = units.mib(part)
        elif key in _WORDS and value:
            made[key] = value
        elif key in _LIMITS and value.isdigit():
            made.setdefault("limits", {})[key] = int(value)
        else:
            raise typer.BadParameter(
                f"`{part}` says nothing of a disk; write a size, or KEY=VALUE with one of {', '.join((*_WORDS, *_LIMITS))}"
            )
    return made
