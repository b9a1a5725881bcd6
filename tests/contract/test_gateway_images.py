"""Images on their way into a pool."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from libs.common.decider import Refused
from libs.common.messages import Event, NodeId
from proto import io
from services.gateway.problems import Problem
from tests.contract.gateway_rig import (
    Rig,
    problem,
)


class TestImages:
    async def test_upload(self, world: Rig, tmp_path: Path) -> None:
        def requested(command: io.ImportImage) -> list[Event]:
            return [io.ImageImportRequested(
                image=command.image, node=NodeId("n1"), pool=command.pool, file=command.file, format=command.format
            )]  # fmt: skip

        world.io.rules[io.ImportImage] = requested
        client = await world.client("operator")
        answer = await client.post("/v1/images?name=tiny&format=raw", content=b"abc" * 1000)
        assert answer.status_code == 202, answer.text
        (part,) = (tmp_path / "pool" / "incoming").iterdir()
        assert part.read_bytes() == b"abc" * 1000 and part.stat().st_mode & 0o007 == 0
        assert world.io.heard[0][1].file == part.name  # type: ignore[attr-defined]
        assert (await client.get("/v1/images/tiny")).json()["state"] == "importing"
        done = io.ImageRejected(image="tiny", sentence="it has a backing file")
        await world.gateway.follower.reach(await world.tell("image-tiny", [done]), 2)
        task = (await client.get(f"/v1/tasks/{answer.json()['task']}")).json()
        assert (task["state"], task["sentence"]) == ("failed", "it has a backing file")
        await world.gateway.uploads.settle()
        assert not part.exists()

    async def test_refused_uploads_leave_nothing(self, world: Rig, tmp_path: Path) -> None:
        def no(command: io.ImportImage) -> list[Event]:
            raise Refused(io.Refusal.IMAGE_KNOWN, "there is one")

        world.io.rules[io.ImportImage] = no
        world.gateway.uploads.bytes_max = 10_000
        client = await world.client("operator")
        problem(await client.post("/v1/images?name=x", content=b"abc"), 409, "IMAGE_KNOWN")
        problem(await client.post("/v1/images?name=x", content=b""), 400, "EMPTY_BODY")
        problem(await client.post("/v1/images?name=x", content=b"a" * 20_000), 413, "TOO_LARGE")
        problem(await client.post("/v1/images?name=x&pool=y", content=b"a"), 400, "NO_POOL")
        problem(await client.post("/v1/images?name=X!", content=b"a"), 400)
        problem(await client.post("/v1/images?name=x&format=floppy", content=b"a"), 400)
        problem(await client.post("/v1/images", content=b"a"), 400)
        assert list((tmp_path / "pool" / "incoming").iterdir()) == []

    async def test_chunks_without_a_length_are_bounded_too(self, world: Rig, tmp_path: Path) -> None:
        async def chunks() -> AsyncIterator[bytes]:
            for _ in range(20):
                yield b"a" * 1000

        world.gateway.uploads.bytes_max = 10_000
        with pytest.raises(Problem, match="TOO_LARGE"):
            await world.gateway.uploads.take("default", None, chunks())
        with pytest.raises(Problem, match="TRUNCATED"):
            world.gateway.uploads.bytes_max = 100_000
            await world.gateway.uploads.take("default", 30_000, chunks())
        assert list((tmp_path / "pool" / "incoming").iterdir()) == []
