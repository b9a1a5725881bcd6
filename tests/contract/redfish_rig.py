"""Redfish: sushy-tools' emulator, and a proxy before it that lies."""

from __future__ import annotations

import contextlib
import importlib
import json
import shutil
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from base64 import b64encode
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from proto.fence import Device, DeviceKind
from services.ha.fencing.simulated import Machines, Quirk
from tests.contract.fence_rigs import PASSWORD, REF, USER, Program, free_port
from tests.servers import wait_until

UUID, OTHER_UUID = "38947555-7742-3448-3784-823347823834", "deadbeef-0000-4000-8000-000000000002"

EMULATOR = """
import random, sys
random.randint = lambda least, most: 1  # its machines take up to eleven seconds to switch; here one at most
from sushy_tools.emulator.main import main
sys.exit(main())
"""


class RedfishRig:
    """The emulator on loopback, over TLS; for quirks a proxy stands before it, which lies."""

    quirks = frozenset(Quirk)
    password = PASSWORD

    def __init__(self, folder: Path) -> None:
        importlib.import_module("sushy")  # takes its time, which is none of the device's
        self.machines = Machines()
        self.folder = folder
        self.cert = certificate(folder, "127.0.0.1")
        self.plain, self.port = free_port(), free_port()
        self._emulators = [self._emulator(self.port, tls=True)]
        self.proxy = LyingProxy(self.port)
        self._quirk = Quirk.NONE

    def _emulator(self, port: int, tls: bool) -> Program:
        import bcrypt

        hashed = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
        (self.folder / "htpasswd").write_text(f"{USER}:{hashed}\n")
        systems = [
            {"uuid": UUID, "name": "n1", "power_state": "On", "nics": []},
            {"uuid": OTHER_UUID, "name": "n2", "power_state": "On", "nics": []},
        ]
        settings = {
            "SUSHY_EMULATOR_FAKE_DRIVER": True, "SUSHY_EMULATOR_FAKE_SYSTEMS": systems, "SUSHY_EMULATOR_LISTEN_IP": "127.0.0.1",
            "SUSHY_EMULATOR_AUTH_FILE": str(self.folder / "htpasswd"), "SUSHY_EMULATOR_STATE_DIR": str(self.folder),
            "SUSHY_EMULATOR_SSL_CERT": str(self.cert), "SUSHY_EMULATOR_SSL_KEY": str(self.folder / "key.pem"),
        }  # fmt: skip
        (self.folder / "emulator.conf").write_text("".join(f"{key} = {value!r}\n" for key, value in settings.items()))
        argv = [sys.executable, "-c", EMULATOR, "--config", str(self.folder / "emulator.conf"), "--port", str(port)]
        started = Program(argv, self.folder)
        wait_until(lambda: _listens(port), started.process, started.log, "the Redfish emulator")
        return started

    def device(self) -> Device:
        ca = self.cert.read_text()
        if self._quirk == Quirk.NONE:
            return Device(
                kind=DeviceKind.REDFISH,
                address=f"https://127.0.0.1:{self.port}",
                system=UUID,
                user=USER,
                password=REF,
                ca=ca,
            )
        call_s = {Quirk.SILENT: 0.7, Quirk.MUTE: 0.7, Quirk.LATE: 1.5}.get(self._quirk, 3.0)
        at = f"http://127.0.0.1:{self.proxy.port}"
        return Device(
            kind=DeviceKind.REDFISH, address=at, system=UUID, user=USER, password=REF, insecure=True, call_s=call_s
        )

    def elsewhere(self) -> Device:
        at = f"http://127.0.0.1:{free_port()}"
        return Device(kind=DeviceKind.REDFISH, address=at, user=USER, password=REF, insecure=True)

    def truth(self) -> bool:
        return str(self._ask(f"/redfish/v1/Systems/{UUID}")["PowerState"]) == "On"

    def reset(self) -> None:
        self.behave(Quirk.NONE)
        if not self.truth():
            self._ask(f"/redfish/v1/Systems/{UUID}/Actions/ComputerSystem.Reset", {"ResetType": "On"})
        while not self.truth():
            pass

    def _ask(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        return self.proxy.ask(path, json.dumps(body).encode() if body else None)

    def behave(self, quirk: Quirk) -> None:
        self._quirk = quirk
        self.proxy.behave(quirk)

    def close(self) -> None:
        self.proxy.close()
        for emulator in self._emulators:
            emulator.close()


class LyingProxy:
    """Before a Redfish service on this machine: answers with what it says, or with what it is to."""

    def __init__(self, port: int) -> None:
        self.target = f"https://127.0.0.1:{port}"
        self.quirk = Quirk.NONE
        self.ordered = 0
        self.said_off = False
        self.released = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.get(self)

            def do_POST(self) -> None:
                outer.post(self)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def behave(self, quirk: Quirk) -> None:
        self.quirk, self.ordered, self.said_off = quirk, 0, False

    def ask(self, path: str, body: bytes | None = None) -> dict[str, Any]:
        import ssl

        word = b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        head = {"Authorization": f"Basic {word}", "Content-Type": "application/json"}
        request = urllib.request.Request(self.target + path, body, head)  # noqa: S310  on loopback
        with urllib.request.urlopen(request, context=ssl._create_unverified_context()) as answer:  # noqa: S310, S323
            data = answer.read()
        return dict(json.loads(data)) if data else {}

    def get(self, to: BaseHTTPRequestHandler) -> None:
        if self.quirk == Quirk.SILENT or (self.quirk == Quirk.MUTE and self.ordered):
            self.released.wait(20)
            return
        found = self.ask(to.path)
        if "PowerState" in found:
            if self.quirk == Quirk.STRANGER:
                found["UUID"] = OTHER_UUID
            flickers = self.quirk == Quirk.FLICKER and self.ordered and not self.said_off
            if (self.quirk == Quirk.LIAR and self.ordered) or flickers:
                found["PowerState"], self.said_off = "Off", True
        self._answer(to, 200, json.dumps(found).encode())

    def post(self, to: BaseHTTPRequestHandler) -> None:
        body = to.rfile.read(int(to.headers.get("Content-Length") or 0))
        self.ordered += 1
        if self.quirk not in (Quirk.LIAR, Quirk.DEAF, Quirk.FLICKER):
            self.ask(to.path, body)
        if self.quirk == Quirk.LATE:
            self.released.wait(20)
            return
        self._answer(to, 204, b"")

    @staticmethod
    def _answer(to: BaseHTTPRequestHandler, status: int, body: bytes) -> None:
        to.send_response(status)
        to.send_header("Content-Length", str(len(body)))
        to.send_header("Content-Type", "application/json")
        to.end_headers()
        to.wfile.write(body)

    def close(self) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()


def certificate(folder: Path, address: str, name: str = "cert") -> Path:
    """Signed by itself, for an address; its key is key.pem."""
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("openssl is not installed")
    made = folder / f"{name}.pem"
    subprocess.run(
        [program, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={address}", "-addext",
         f"subjectAltName=IP:{address}", "-keyout", str(folder / "key.pem"), "-out", str(made)],
        check=True, capture_output=True,
    )  # fmt: skip
    return made


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False
