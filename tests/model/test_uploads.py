"""Parts are removed beside the loop, and `settle` ends when they are gone, also where they were gone before it was asked."""

from __future__ import annotations

import asyncio
from pathlib import Path

from services.gateway.uploads import Uploads


async def test_settling_ends_when_all_is_removed_already(tmp_path: Path) -> None:
    uploads = Uploads({"default": tmp_path})
    done = asyncio.get_running_loop().create_future()
    done.set_result(None)
    uploads._removing.add(done)  # removed, and not yet let go of: its callback has had no turn
    async with asyncio.timeout(5):
        await uploads.settle()
    assert not uploads._removing
