"""Programs inside a guest: `vm exec`. What the guest writes is hostile until it is out of a terminal's reach."""

from __future__ import annotations

import base64
import sys
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import typer

from services.cli import show
from services.cli.client import Client, path
from services.cli.failure import REFUSED, USAGE, Failure
from services.cli.session import wants_json

INPUT_BYTES_MAX = 1 << 20
MARGIN_S = 15.0
"""what the way there and back may take on top of the program's own time"""


def run(api: Client, vm: str, argv: list[str], timeout_s: int, with_input: bool) -> None:
    """Runs it, passes on its output and ends with its exit code. Raises Failure."""
    given = sys.stdin.buffer.read(INPUT_BYTES_MAX + 1) if with_input else b""
    if len(given) > INPUT_BYTES_MAX:
        raise Failure(REFUSED, "the input is longer than 1 MiB", "copy larger files by the network of the guest")
    body: dict[str, Any] = {"argv": argv, "timeout_s": timeout_s}
    if given:
        body["input_b64"] = base64.b64encode(given).decode()
    result = api.post(path("vms", vm, "exec"), body, timeout_s=timeout_s + MARGIN_S)
    if wants_json():
        show.as_json(result)
    else:
        _pass_on(result.get("stdout_b64", ""), sys.stdout)
        _pass_on(result.get("stderr_b64", ""), sys.stderr)
        if result.get("truncated"):
            show.note("asvctl: the output was cut at 1 MiB")
    raise typer.Exit(int(result.get("exit_code", 0)) & 0xFF)


def screenshot(api: Client, vm: str, output: Path) -> None:
    """Saves the guest's screen. Raises Failure."""
    png, headers = api.file(path("vms", vm, "screenshot"))
    try:
        output.write_bytes(png)
    except OSError as error:
        raise Failure(USAGE, f"{output} cannot be written: {error.strerror}", "name another --output") from error
    if wants_json():
        show.as_json({"file": str(output), "bytes": len(png), "blob": headers.get("asv-blob", "")})
    else:
        show.note(f"{output}: {len(png)} bytes")


def _pass_on(encoded: str, to: TextIO) -> None:
    """Raw bytes into files and pipes; nothing that a terminal obeys into a terminal."""
    data = base64.b64decode(encoded)
    out: BinaryIO = to.buffer
    to.flush()
    out.write(stripped(data) if to.isatty() else data)
    out.flush()


def stripped(data: bytes) -> bytes:
    """Without terminal escapes; line ends as they were."""
    text = data.decode("utf-8", "replace").replace("\r\n", "\n")
    return show.ESCAPES.sub("", text).encode()
