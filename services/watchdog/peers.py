"""Peers reach one another directly: a datagram that is answered as it came, and no longer than it was. Whoever hears nothing has
shown nothing but that: it is a hint among three, and starts nothing."""

from __future__ import annotations

import os
import selectors
import socket
import threading
from collections.abc import Callable, Mapping

from services.watchdog.clock import now_us

MAGIC = b"aSV-probe "
BYTES_MAX = 64
ANSWER_S = 1.0
PROBES_MAX = 4
"""rounds at a time"""
ADDRESSES_MAX = 256
PORT_FILE = "port"


class Echo:
    """Answers on `listen`. at: what peers are told. A port that was chosen (listen's is 0) is kept in the folder and had again by a
    successor where it is free: peers go on reaching the node, also when its agent is not there to tell of another."""

    def __init__(self, listen: tuple[str, int], at: str, selector: selectors.BaseSelector, folder: str) -> None:
        host, port = listen
        self._sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        try:
            self._sock.bind((host, port or _kept(folder)))
        except OSError:
            self._sock.bind(listen)
        self._sock.setblocking(False)
        chosen = int(self._sock.getsockname()[1])
        if not port:
            _keep(folder, chosen)
        self.at = at or f"{host}:{chosen}"
        selector.register(self._sock, selectors.EVENT_READ, self._answer)

    def _answer(self, _: int) -> None:
        try:
            data, peer = self._sock.recvfrom(BYTES_MAX + 1)
            if data.startswith(MAGIC) and len(data) <= BYTES_MAX:
                self._sock.sendto(data, peer)
        except OSError:
            return  # its network is not there just now


def _kept(folder: str) -> int:
    """0: none."""
    try:
        fd = os.open(f"{folder}/{PORT_FILE}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        said = os.read(fd, 16)
    finally:
        os.close(fd)
    return int(said) if said.isdigit() and int(said) < 1 << 16 else 0


def _keep(folder: str, port: int) -> None:
    """A folder that cannot be written costs the next one its port, and nothing else."""
    draft = f"{folder}/{PORT_FILE}.draft"
    try:
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, str(port).encode())
        finally:
            os.close(fd)
        os.replace(draft, f"{folder}/{PORT_FILE}")  # noqa: PTH105
    except OSError:
        return


class Probing:
    """Tries peers, in threads: a name may take its time."""

    def __init__(self, done: Callable[[int, dict[str, float]], None]) -> None:
        self._done = done
        self._rounds = threading.Semaphore(PROBES_MAX)

    def start(self, number: int, addresses: Mapping[str, str]) -> str:
        """`done(number, milliseconds by node; -1: no answer)` follows within about a second. Else why not."""
        if len(addresses) > ADDRESSES_MAX:
            return f"{len(addresses)} addresses are more than {ADDRESSES_MAX}"
        if not self._rounds.acquire(blocking=False):
            return f"{PROBES_MAX} rounds of probes are under way"
        threading.Thread(target=self._probe, args=(number, dict(addresses)), name="probe", daemon=True).start()
        return ""

    def _probe(self, number: int, addresses: dict[str, str]) -> None:
        try:
            self._done(number, probe(addresses))
        finally:
            self._rounds.release()


def probe(addresses: Mapping[str, str]) -> dict[str, float]:
    """Blocking, for ANSWER_S at most beside the resolving of names."""
    answered = dict.fromkeys(addresses, -1.0)
    asked: dict[bytes, tuple[str, int]] = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for node, at in addresses.items():
            host, _, port = at.rpartition(":")
            nonce = MAGIC + os.urandom(8).hex().encode()
            try:
                sock.sendto(nonce, (host, int(port)))
            except (OSError, ValueError, OverflowError):
                continue
            asked[nonce] = node, now_us()
        end_us = now_us() + round(ANSWER_S * 1e6)
        while asked and (left_us := end_us - now_us()) > 0:
            sock.settimeout(left_us / 1e6)
            try:
                data = sock.recv(BYTES_MAX)
            except OSError:
                continue  # the time is over, or one of them refuses: the others may answer
            if (found := asked.pop(data, None)) is not None:
                node, sent_us = found
                answered[node] = (now_us() - sent_us) / 1000
    return answered
