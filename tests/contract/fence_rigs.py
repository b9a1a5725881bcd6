"""Machines with fence devices before them, as far as they run here: simulated ones, sushy-tools' Redfish emulator, OpenIPMI's BMC
(ipmi_sim), a docker engine. Each has its quirks by the same words; a kind that cannot have one says so."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from base64 import b64encode
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Protocol

import pytest

from libs.common.secrets import Secret
from proto.fence import Device, DeviceKind
from services.ha.fencing.simulated import Machine, Machines, Quirk
from tests.servers import dies_with_parent, wait_until

REF = Secret(ref="0" * 32)
USER, PASSWORD, WRONG = "asv", "s3cret, of all", "guessed"
UUID, OTHER_UUID = "38947555-7742-3448-3784-823347823834", "deadbeef-0000-4000-8000-000000000002"


class Rig(Protocol):
    """machines: for the simulated kind. quirks: those that it can have."""

    machines: Machines
    quirks: frozenset[Quirk]
    password: str

    def device(self) -> Device: ...
    def truth(self) -> bool:
        """Whether the machine runs, from elsewhere than the device."""
        ...

    def reset(self) -> None:
        """On, and honest."""
        ...

    def behave(self, quirk: Quirk) -> None: ...
    def elsewhere(self) -> Device:
        """Where nobody answers."""
        ...

    def close(self) -> None: ...


def free_port(kind: int = socket.SOCK_STREAM) -> int:
    with socket.socket(socket.AF_INET, kind) as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


class SimulatedRig:
    quirks = frozenset(Quirk)
    password = PASSWORD

    def __init__(self) -> None:
        self.machines = Machines()
        self.reset()

    def device(self) -> Device:
        return Device(kind=DeviceKind.SIMULATED, address="n1", user=USER, password=REF)

    def elsewhere(self) -> Device:
        return Device(kind=DeviceKind.SIMULATED, address="nowhere")

    def truth(self) -> bool:
        return self.machines.all["n1"].on

    def reset(self) -> None:
        self.machines.all["n1"] = Machine(identity="simulated n1", user=USER, password=PASSWORD, delay_looks=2)

    def behave(self, quirk: Quirk) -> None:
        self.machines.all["n1"].quirk = quirk

    def close(self) -> None:
        pass


class _Process:
    """A program with a folder, ended by its pid."""

    def __init__(self, argv: list[str], folder: Path, env: dict[str, str] | None = None) -> None:
        self.log = folder / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                argv, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env, start_new_session=True,
                preexec_fn=dies_with_parent(signal.SIGTERM),  # noqa: PLW1509  one system call, no lock
            )  # fmt: skip

    def close(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(15)


# --- redfish ------------------------------------------------------------------------------------------------------------

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

    def _emulator(self, port: int, tls: bool) -> _Process:
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
        started = _Process(argv, self.folder)
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


# --- ipmi ---------------------------------------------------------------------------------------------------------------

CHASSIS = """#!/bin/sh
# ipmi_sim asks: get power | set power 0|1. What it says and does follows the word in `quirk`.
cd "$(dirname "$0")"
quirk=$(cat quirk); verb=$1; shift
hang() { while [ "$(cat quirk)" = $quirk ]; do sleep 0.1; done; }
if [ $verb = get ]; then
  power=$(cat power)
  case $quirk in
  liar) [ -e ordered ] && power=0;;
  flicker) [ -e ordered ] && ! [ -e said ] && power=0 && touch said;;
  mute) [ -e ordered ] && hang;;
  silent) hang;;
  esac
  echo "power:$power"
else
  touch ordered
  case $quirk in liar|deaf|flicker) ;; *) echo $2 > power;; esac
  [ $quirk = late ] && hang
fi
exit 0
"""
BMC = """name "n1"
set_working_mc 0x20
  startlan 1
    addr 127.0.0.1 {port}
    priv_limit admin
    allowed_auths_admin none md2 md5 straight
    guid {guid}
  endlan
  chassis_control "{program}"
  user 2 true "{user}" "{password}" admin 10 md2 md5 straight
"""
EMULATED = "mc_setbmc 0x20\nmc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02\nmc_enable 0x20\n"


class IpmiRig:
    """ipmi_sim on loopback, with a script for the machine's power; a second one answers for another machine."""

    quirks = frozenset(Quirk)
    password = "s3cret-of-all"  # at most sixteen bytes, by the standard

    def __init__(self, folder: Path) -> None:
        for program in ("ipmitool", "ipmi_sim"):
            if shutil.which(program) is None:
                pytest.skip(f"{program} is not installed (Debian: ipmitool, openipmi)")
        self.machines = Machines()
        self.folder = folder
        script = folder / "chassis"
        script.write_text(CHASSIS)
        script.chmod(0o755)
        self.ports = [free_port(socket.SOCK_DGRAM), free_port(socket.SOCK_DGRAM)]
        self._quirk = Quirk.NONE
        self.reset()
        guids = ("a123456789abcdefa123456789abcdef", "b123456789abcdefa123456789abcdef")
        self._bmcs = [self._start(port, guid) for port, guid in zip(self.ports, guids, strict=True)]

    def _start(self, port: int, guid: str) -> _Process:
        folder = self.folder / str(port)
        folder.mkdir()
        words = BMC.format(port=port, guid=guid, program=self.folder / "chassis", user=USER, password=self.password)
        (folder / "lan.conf").write_text(words)
        (folder / "emu").write_text(EMULATED)
        (folder / "state").mkdir()
        started = _Process(["ipmi_sim", "-c", "lan.conf", "-f", "emu", "-s", "state", "-n"], folder)
        wait_until(lambda: _answers_udp(port), started.process, started.log, "ipmi_sim")
        return started

    def device(self) -> Device:
        port = self.ports[1 if self._quirk == Quirk.STRANGER else 0]
        call_s = 1.0 if self._quirk in (Quirk.SILENT, Quirk.MUTE, Quirk.LATE) else 3.0
        return Device(
            kind=DeviceKind.IPMI, address=f"127.0.0.1:{port}", user=USER, password=REF, cipher=3, call_s=call_s
        )

    def elsewhere(self) -> Device:
        at = f"127.0.0.1:{free_port(socket.SOCK_DGRAM)}"
        return Device(kind=DeviceKind.IPMI, address=at, user=USER, password=REF, cipher=3, call_s=2.0)

    def truth(self) -> bool:
        return (self.folder / "power").read_text().strip() == "1"

    def reset(self) -> None:
        self.behave(Quirk.NONE)
        (self.folder / "power").write_text("1\n")

    def behave(self, quirk: Quirk) -> None:
        self._quirk = quirk
        for mark in ("ordered", "said"):
            (self.folder / mark).unlink(missing_ok=True)
        (self.folder / "quirk").write_text(quirk)

    def close(self) -> None:
        for bmc in self._bmcs:
            bmc.close()


def _answers_udp(port: int) -> bool:
    """By the presence ping of RMCP."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ask:
        ask.settimeout(0.2)
        ask.sendto(bytes.fromhex("0600ff06000011be80000000"), ("127.0.0.1", port))
        try:
            return bool(ask.recv(100))
        except OSError:
            return False


# --- docker -------------------------------------------------------------------------------------------------------------


class DockerRig:
    """An engine: the one that answers, else one of our own, without networks. Its containers hold one program of this machine."""

    quirks = frozenset({Quirk.NONE, Quirk.SILENT, Quirk.STRANGER})
    password = ""
    name = f"asv-fence-{os.getpid()}"

    def __init__(self, folder: Path) -> None:
        import docker

        self.machines = Machines()
        self.folder = folder
        self._engine: _Process | None = None
        self._quirk = Quirk.NONE
        self.socket = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
        if not _engine_answers(self.socket):
            self.socket = self._own()
        self.api: Any = docker.DockerClient(base_url=self.socket)
        self.image = self.api.api.import_image_from_data(root_with_sleep(), repository=self.name, tag="1")
        self._silent = socket.socket(socket.AF_UNIX)
        self._silent.bind(str(folder / "silent.sock"))
        self._silent.listen()
        self._made: Any = None
        self._known = ""
        self.reset()

    def _own(self) -> str:
        if os.geteuid() != 0 or shutil.which("dockerd") is None:
            pytest.skip("no docker engine answers, and none can be started here")
        at = Path(tempfile.mkdtemp(prefix="asv-fence-", dir="/tmp"))  # short: a socket's path ends at 107 bytes
        folders = ("--data-root", str(at / "data"), "--exec-root", str(at / "exec"), "-p", str(at / "pid"))
        argv = ["dockerd", *folders, "-H", f"unix://{at}/s", "--bridge", "none", "--iptables=false"]
        self._engine = _Process(argv, at)
        self._at = at
        wait_until(lambda: _engine_answers(f"unix://{at}/s"), self._engine.process, self._engine.log, "dockerd")
        return f"unix://{at}/s"

    def _run(self) -> Any:
        return self.api.containers.run(
            f"{self.name}:1", ["/bin/sleep", "100000"], name=self.name, detach=True, network_mode="none", init=True,
            restart_policy={"Name": "unless-stopped"},
        )  # fmt: skip

    def device(self) -> Device:
        if self._quirk == Quirk.SILENT:
            return Device(
                kind=DeviceKind.DOCKER, address=f"unix://{self.folder}/silent.sock", system=self.name, call_s=1.0
            )
        return Device(kind=DeviceKind.DOCKER, address=self.socket, system=self.name)

    def elsewhere(self) -> Device:
        return Device(kind=DeviceKind.DOCKER, address=f"unix://{self.folder}/nobody.sock", system=self.name)

    def truth(self) -> bool:
        """By the kernel: whether its process is there."""
        self._made.reload()
        pid = self._made.attrs["State"]["Pid"]
        return bool(pid) and Path(f"/proc/{pid}").exists()

    def reset(self) -> None:
        if self._made is not None and self._made.id == self._known and self._quirk != Quirk.STRANGER:
            self._made.start()
        else:
            self._remove()
            self._made = self._run()
            self._known = self._made.id
        self._quirk = Quirk.NONE

    def _remove(self) -> None:
        if self._made is not None:
            self._made.remove(force=True)

    def behave(self, quirk: Quirk) -> None:
        """stranger: another container has the name now."""
        self._quirk = quirk
        if quirk == Quirk.STRANGER:
            self._remove()
            self._made = self._run()

    def close(self) -> None:
        self._silent.close()
        self._remove()
        self.api.images.remove(f"{self.name}:1", force=True)
        self.api.close()
        if self._engine is not None:
            self._engine.close()
            shutil.rmtree(self._at, ignore_errors=True)


def _engine_answers(at: str) -> bool:
    import docker

    try:
        client = docker.DockerClient(base_url=at, timeout=5)
    except docker.errors.DockerException:
        return False
    try:
        return bool(client.ping())
    except docker.errors.DockerException:
        return False
    finally:
        client.close()


def root_with_sleep() -> bytes:
    """A file system with /bin/sleep and its libraries, as a tar."""
    program = shutil.which("sleep")
    assert program is not None
    listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    files = [word for word in listed.split() if word.startswith("/")]
    with tempfile.TemporaryDirectory() as at:
        root = Path(at)
        for source in (program, *files):
            target = root / ("bin/sleep" if source == program else source.lstrip("/"))
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(Path(source).resolve(), target)
        return subprocess.run(["tar", "-C", at, "-c", "."], capture_output=True, check=True).stdout
