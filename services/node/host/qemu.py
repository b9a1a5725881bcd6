"""Which QEMU is here.

QemuUnusable    QEMU is missing or does not start
"""

from __future__ import annotations

import asyncio
import re

VERSION_S_MAX = 10.0
_VERSION = re.compile(r"version (\d+\.\d+\.\d+)")


class QemuUnusable(Exception):
    """Its text says why, and what to install where that would help."""


def parse_version(text: str) -> str:
    """`7.2.22` from what `--version` prints. Raises QemuUnusable."""
    match = _VERSION.search(text)
    if match is None:
        raise QemuUnusable(f"this is not QEMU: it says {text[:80]!r} of its version")
    return match[1]


async def version(qemu: str) -> str:
    """The version of the program `qemu` (a path, or a name on PATH). Raises QemuUnusable."""
    pipe = asyncio.subprocess.PIPE
    try:
        process = await asyncio.create_subprocess_exec(qemu, "--version", stdout=pipe, stderr=pipe)
    except OSError as error:
        raise QemuUnusable(f"{qemu} cannot be started ({error.strerror}): install qemu-system-x86") from error
    try:
        out, err = await asyncio.wait_for(process.communicate(), VERSION_S_MAX)
    except TimeoutError:
        process.kill()
        await process.wait()
        raise QemuUnusable(f"{qemu} did not tell its version within {VERSION_S_MAX:.0f} s") from None
    return parse_version((out or err).decode(errors="replace"))
