"""What a watchdog is told by its environment, the agent's own settings among it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

PORT_MAX = 65_535


class Settings(NamedTuple):
    """node, state, pools (name -> the folder of its leases): as the agent's. listen: where peers' probes are answered (host, port;
    port 0: any free one), at: what they are told, "": as it is bound; None: nowhere. device: of a hardware or soft watchdog that
    resets this host unless it is fed; "": none."""

    node: str
    state: str
    pools: dict[str, str]
    listen: tuple[str, int] | None = None
    at: str = ""
    device: str = ""


def read(environ: Mapping[str, str]) -> Settings:
    """Raises ValueError with the setting that is wrong and what would be right."""
    missing = [name for name in ("ASV_NODE", "ASV_STATE", "ASV_POOLS") if not environ.get(name)]
    if missing:
        raise ValueError(
            f"{missing[0]} is not set; a watchdog needs ASV_NODE, ASV_STATE and ASV_POOLS, as its agent does"
        )
    device = environ.get("ASV_WATCHDOG_DEVICE", "")
    if device and not device.startswith("/dev/"):
        raise ValueError(f"ASV_WATCHDOG_DEVICE: {device} is no device below /dev")
    return Settings(
        environ["ASV_NODE"], environ["ASV_STATE"], _pools(environ["ASV_POOLS"]), _listen(environ.get("ASV_WATCH_LISTEN", "")),
        environ.get("ASV_WATCH_AT", ""), device,
    )  # fmt: skip


def _pools(text: str) -> dict[str, str]:
    pools = {}
    for entry in text.split(","):
        name, equals, at = entry.partition("=")
        folder = _leases(at) if "://" in at else at
        if not (name and equals and folder.startswith("/")):
            raise ValueError(f"ASV_POOLS: {entry!r} is not NAME=/FOLDER or NAME=URL?leases=/FOLDER")
        pools[name] = folder
    return pools


def _leases(url: str) -> str:
    """The folder of the leases of a pool that is none."""
    for given in url.partition("?")[2].split("&"):
        key, _, value = given.partition("=")
        if key == "leases":
            head, *rest = value.split("%")
            return head + "".join(chr(int(part[:2], 16)) + part[2:] for part in rest)
    return ""


def _listen(text: str) -> tuple[str, int] | None:
    if not text:
        return None
    host, colon, port = text.rpartition(":")
    if not (host and colon and port.isdigit() and int(port) <= PORT_MAX):
        raise ValueError(f"ASV_WATCH_LISTEN: {text!r} is not HOST:PORT, for instance 0.0.0.0:7471")
    return host, int(port)
