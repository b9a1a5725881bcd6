"""Who this machine is, and which of its lives this is."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path("/")


def boot_id(root: Path = ROOT) -> str:
    """A new one with every boot of the kernel."""
    return (root / "proc/sys/kernel/random/boot_id").read_text().strip()


NOT_ITS_OWN = re.compile(r"^[0f-]+$|^03000200-0400-0500-0006-000700080009$")
"""what firmware says that was never given a UUID"""


def machine_uuid(root: Path = ROOT) -> str:
    """By its firmware (SMBIOS), in lower case; "": it has none, or this process may not know."""
    try:
        found = (root / "sys/class/dmi/id/product_uuid").read_text().strip().lower()
    except OSError:
        return ""
    return "" if NOT_ITS_OWN.match(found) else found
