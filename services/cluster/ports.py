"""Free ports of the loopback address, chosen once and kept."""

from __future__ import annotations

import contextlib
import socket

LOOPBACK = "127.0.0.1"


def free(port: int) -> bool:
    """Whether nobody listens on that loopback port."""
    with contextlib.closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def choose(kept: dict[str, int], names: tuple[str, ...]) -> dict[str, int]:
    """A port for each name: the kept one while it is free, else another that is. All differ from one another."""
    chosen = {name: kept[name] for name in names if kept.get(name) and free(kept[name])}
    with contextlib.ExitStack() as held:
        for name in names:
            while name not in chosen:
                probe = held.enter_context(contextlib.closing(socket.socket()))
                probe.bind((LOOPBACK, 0))
                port = int(probe.getsockname()[1])
                if port not in chosen.values():
                    chosen[name] = port
    return chosen
