"""The steps of bringing a cluster up that are no process: migrating, letting nodes join, the built-in image."""

from __future__ import annotations

import asyncio
import dataclasses
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from libs.common.bus.credentials import write_private
from services.cluster import api
from services.cluster.api import ApiRefused
from services.cluster.child import Spec
from services.cluster.identities import OPERATOR, Identities
from services.cluster.layout import CHECKOUT, NODES, READER, TINY, Layout
from services.cluster.plan import Engines, base_environment
from services.cluster.record import Record

POLL_S = 0.05
JOIN_S = 600


class StepFailed(Exception):
    """The text ends with the step's own words."""


def outside_places(home: Path, path: Path) -> list[Path]:
    """The private place beyond the home that a path lies in, if it does (places.outside): [it] or []."""
    return [p for p in (path, *path.parents) if p.name.startswith("asv-") and home not in (p, *p.parents)][-1:]


async def _run(words: list[str], environment: dict[str, str], what: str) -> str:
    """A step in a process of its own, so that what it imports is not kept in the supervisor's memory."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", *words, cwd=CHECKOUT, env=environment, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        said = (await process.communicate())[0].decode(errors="replace")
    finally:
        if process.returncode is None:
            process.kill()
    if process.returncode != 0:
        raise StepFailed(f"{what} failed: {said[-1500:].strip()}")
    return said.strip()


async def migrate(layout: Layout, dsn: str) -> None:
    """Raises StepFailed."""
    environment = base_environment(layout) | {"PYTHONPATH": str(CHECKOUT)}
    await _run(["libs.common.log.migrate", dsn], environment, "bringing the database to its shape")


LEFT = "left"
"""a file that an agent leaves whose node was removed"""


def with_join_token(layout: Layout, record: Record, spec: Spec) -> Spec:
    """The agent's Spec, which before a start gets a fresh one-time token for as long as the agent has no credentials.
    One whose node was removed is not started again before the cluster is."""

    folder = layout.node(spec.name)
    (folder / LEFT).unlink(missing_ok=True)

    async def prepare() -> None:
        if (folder / LEFT).exists():
            raise StepFailed(f"{spec.name} has left the cluster; the next `make up` brings it back")
        if (folder / "keys" / f"{spec.name}.jwt").exists():
            return
        port = record.ports["gateway"]
        answer = await asyncio.to_thread(
            api.call, port, layout.admin_token, "POST", "/v1/tokens/join", {"expires_s": JOIN_S}
        )
        write_private(folder / "join.token", str(answer["token"]).encode())

    return dataclasses.replace(spec, prepare=prepare)


async def nodes_online(layout: Layout, record: Record) -> None:
    """Waits until the API shows all nodes online with what they can do, their leases held, and the services have folded the log
    that far."""
    while True:
        try:
            if await asyncio.to_thread(_settled, layout, record):
                return
        except (OSError, ApiRefused):
            pass  # it was there before: it is being started again
        await asyncio.sleep(POLL_S)


def _settled(layout: Layout, record: Record) -> bool:
    port = record.ports["gateway"]
    nodes = api.call(port, layout.admin_token, "GET", "/v1/nodes")["items"]
    if sum(bool(node.get("online") and (node.get("capabilities") or {}).get("watchdog")) for node in nodes) < len(NODES):
        return False
    cluster = api.call(port, layout.admin_token, "GET", "/v1/cluster")
    answers = [service.get("status") or {} for service in cluster["services"].values()]
    return all(status.get("position", cluster["position"]) >= cluster["position"] for status in answers)


async def tiny_image(
    layout: Layout, record: Record, engines: Engines, known: Identities, say: Callable[[str], None]
) -> None:
    """Brings in the built-in image, once. A tree without it (no QEMU: simulated nodes) goes without."""
    if not (TINY / "manifest.json").exists():
        say("no built-in image: `make setup` builds it")
        return
    if await _image_state(layout, record) in ("ready", "importing"):
        return
    say("bringing in the image `tiny`")
    await asyncio.to_thread(_stage, layout.pool / "incoming")
    environment = base_environment(layout) | {"PYTHONPATH": str(CHECKOUT)}
    folder = str(known.folder) if known.folder else ""
    await _run(
        ["services.cluster.tiny", engines.nats_url, folder, OPERATOR, str(TINY)], environment, "importing `tiny`"
    )
    while (state := await _image_state(layout, record)) != "ready":
        if state == "rejected":
            say("the image `tiny` was rejected: asvctl image show tiny says why")
            return
        await asyncio.sleep(POLL_S)


async def _image_state(layout: Layout, record: Record) -> str:
    """As the API has it; an empty text where it knows none."""
    try:
        found = await asyncio.to_thread(api.call, record.ports["gateway"], layout.admin_token, "GET", "/v1/images/tiny")
    except ApiRefused as error:
        if error.status not in (404, 503):
            raise
        return ""
    return str(found["state"])


def _stage(incoming: Path) -> None:
    incoming.mkdir(parents=True, exist_ok=True)
    manifest = msgspec.json.decode((TINY / "manifest.json").read_bytes())
    for name in manifest["files"].keys() - {READER}:
        part = incoming / f".tiny-{name}"
        shutil.copyfile(TINY / name, part)
        part.replace(incoming / f"tiny-{name}")
