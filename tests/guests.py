"""The tiny guest for tests: built once into the user's cache, or taken from ASV_TINY."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import pytest

from infra.guest.build import build, default_cache
from infra.guest.packages import GuestError


@cache
def tiny_image() -> Path:
    """A folder with vmlinux, initrd, disk.qcow2 and manifest.json."""
    if given := os.environ.get("ASV_TINY"):
        return Path(given)
    here = default_cache() / "tiny"
    try:
        build(here, default_cache())
    except (GuestError, OSError) as error:
        pytest.skip(f"there is no guest image: {error}")
    return here
