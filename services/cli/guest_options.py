"""Options of `vm create` that concern what runs inside: firmware and the like."""

from __future__ import annotations

from typing import Annotated

import typer

Firmware = Annotated[str, typer.Option(help="uefi, bios, or direct (the image's own kernel). Default: what suits the image.")]
