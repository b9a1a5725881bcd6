"""Who this machine is, and which of its lives this is."""

from __future__ import annotations

from pathlib import Path

ROOT = Path("/")


def boot_id(root: Path = ROOT) -> str:
    """A new one with every boot of the kernel."""
    return (root / "proc/sys/kernel/random/boot_id").read_text().strip()
