"""A small HTTP server that speaks docs/api.md with canned objects: what asvctl's tests talk to.

Tokens: `admin` may all, `viewer` may read; others are unknown. A task goes one step further each time it is looked at.
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

AT_US = 1_700_000_000_000_000
HOSTILE = "pl\x1b[31measant\x1b]0;title\x07"


def vm(name: str, state: str = "running") -> dict[str, Any]:
    return {
        "name": name, "project": "default", "owner": "", "state": state, "vcpus": 1, "memory_mib": 256, "vcpus_max": 4,
        "memory_max_mib": 1024, "priority": "normal", "machine": "pc-q35-7.2", "cpu_model": "qemu64", "firmware": "direct",
        "uuid": "u", "defined_us": AT_US, "changed_us": AT_US, "node": "n1", "generation": 1, "pcpus": [0, 1],
        "addresses": ["10.0.2.15", HOSTILE], "boot_id": "b-1",
        "disks": [{"name": "disk0", "size_mib": 1536, "format": "qcow2", "image": "tiny"}],
        "nics": [{"name": "nic0", "kind": "bridge", "network": "blue", "bridge": "lan", "vlan": 5, "mac": "52:54:00:00:00:01"}],
        "reasons": [{"at_us": AT_US, "text": "placed on n1 (generation 1, policy spread/1)"}],
    }  # fmt: skip


BRIDGE = {
    "name": "lan", "mtu": 9000, "uplinks": [
        {"name": "bond0", "kind": "bond", "carrier": True, "speed_mbps": 20000, "members": [["eth0", True], ["eth1", False]]},
    ],
}  # fmt: skip
NETWORK = {
    "name": "blue", "bridge": "lan", "vlan": 5, "mtu": 1400, "trusted": False, "description": HOSTILE, "nodes": ["n1"],
    "without": {"n2": "no bridge lan, on which network blue lies; it has docker0"},
    "faults": {"n1": ["bond bond0 of bridge lan lost eth1; 1 of its members carry"]}, "vms": ["web-1"],
}  # fmt: skip
NODE = {
    "name": "n1", "online": True, "cordoned": False, "reserved_mib": 256, "capacity_mib": 4096, "vms": ["web-1"],
    "address": "10.0.0.1", "boot_id": "b", "capabilities": {
        "accelerator": "tcg", "cpu_model": "qemu64", "pcpus": 2, "memory_mib": 4096, "qemu_version": "7.2.0", "machine": "q35",
        "driver": "qemu", "cells": [[0, 1]], "pools": ["default"], "bridges": [BRIDGE],
        "hotplug": ["cpu"], "not_enforced": ["cgroup"],
    },
}  # fmt: skip
FENCE = {
    "node": "n1", "kind": "redfish", "address": "https://bmc1", "system": "437XR1138R2", "user": "asv", "call_s": 3.0,
    "state": "failing", "sentence": "the device does not take the user asv with that password",
    "remedy": "set it with the right ones", "power": "unknown", "tested_us": AT_US,
}  # fmt: skip
POOL = {
    "name": "local", "id": "9f12", "kind": "local", "nodes": ["n1"], "size_mib": 1000, "free_mib": 40, "provisioned_mib": 1500,
    "ratio": 1.5, "disks_mib": 900, "images_mib": -1, "rules": {"over": 2.0, "keep_free_pct": 5}, "error": HOSTILE,
    "images": ["tiny"], "others": 2,
    "disks": [{"vm": "web-1", "disk": "disk1", "file": "web-1-disk1.qcow2", "size_mib": 1024, "used_mib": 900}],
}  # fmt: skip
ALERT = {
    "kind": "out-of-space", "object": "vm/web-1", "since_us": AT_US, "sentence": "web-1 on n1 stands still: " + HOSTILE,
    "remedy": "free space in pool local",
}  # fmt: skip
VERDICT = {
    "vm": "web-1", "number": 2, "kind": "hang", "node": "n1", "generation": 3, "at_us": AT_US, "treated": True,
    "sentence": "its guest hangs: " + HOSTILE, "picture": "ab" * 32,
}  # fmt: skip
IMAGE = {"name": "tiny", "state": "ready", "format": "raw", "size_mib": 32, "sha256": "ab" * 32, "reason": ""}
TOKEN = {"id": "t1", "name": "ann", "role": "viewer", "projects": ["*"], "expires_us": 0, "revoked": False}
CLUSTER = {
    "name": "asv", "incarnation": 1, "position": 42, "nodes": 3, "accelerators": ["tcg"], "not_enforced": ["cgroup"],
    "services": {"compute": {"ok": True}, "io": {"ok": False, "error": "does not run"}},
}  # fmt: skip


SCHEDULE = {
    "vm": "web-1", "node": "n1", "generation": 1, "weight": 400, "cap_pct": 0, "used_pct": 80.0, "ready_pct": 20.0,
    "throttled_pct": 0.0, "steal_pct": 0.5, "satisfaction_pct": 80.0, "threads": 3, "thread_pcpus": [0],
    "vcpus": [
        {"vcpu": 0, "thread": 4242, "pcpus": [0, 1], "last_pcpu": 1, "used_pct": 80.0, "ready_pct": 20.0},
    ],
    "plan": {"weight": 400, "sentence": "floats over pCPUs 0-1; weight 400 (important)"},
    "faults": [{"vm": "web-1", "part": "cap", "sentence": "the kernel does not take it"}],
}  # fmt: skip

BOUNDS_US = [10, 100, 1000]
IO = {
    "vm": "web-1", "node": "n1", "generation": 1, "accelerator": "tcg", "bounds_us": BOUNDS_US, "exits": [],
    "intercepted": "not counted by this accelerator (tcg); 12 requests were completed in 1.0 s",
    "devices": [
        {"name": "disk0", "kind": "disk", "model": "virtio-blk-pci", "paravirtual": True, "address": "0000:01:00.0", "ours": True,
         "queues": [{"name": "requests", "size": 256, "in_flight": 3, "completed_per_s": 12.0}], "packets": [], "depth": 0.5,
         "counted_by": "qemu", "note": "", "requests": [
             {"kind": kind, "total": 10, "bytes": 4096, "failed": 1, "invalid": 0, "per_s": 6.0, "mibps": 1.5, "mean_us": 1500.0,
              "bins": [0, 8, 1, 1], "p50_us": 100, "p95_us": 1000, "p99_us": -1} for kind in ("read", "write", "flush")]},
        {"name": "nic0", "kind": "nic", "model": "e1000e", "paravirtual": False, "address": "0000:02:00.0", "ours": True,
         "queues": [], "requests": [], "depth": 0.0, "counted_by": "guest", "note": HOSTILE, "packets": [
             {"kind": kind, "total": 77, "bytes": 4096, "errors": 0, "dropped": 2, "per_s": 6.0, "mibps": 0.1}
             for kind in ("rx", "tx")]},
        {"name": "mine", "kind": "rng", "model": "virtio-rng-pci", "paravirtual": True, "address": "0000:03:00.0", "ours": False,
         "queues": [], "requests": [], "packets": [], "depth": 0.0, "counted_by": "nobody", "note": ""},
    ],
}  # fmt: skip


def event(position: int, vm: str = "web-1") -> dict[str, Any]:
    data = {"type": "vm_started", "vm": vm, "node": "n1", "generation": 1}
    return {
        "position": position, "stream": f"vm-{vm}", "version": position, "type": "vm_started", "v": 1, "at_us": AT_US,
        "data": data,
    }  # fmt: skip


class Problem(Exception):
    def __init__(self, status: int, reason: str, detail: str, remedy: str = "") -> None:
        super().__init__(detail)
        self.body = {
            "type": "about:blank",
            "title": "t",
            "status": status,
            "detail": detail,
            "reason": reason,
            "remedy": remedy,
        }


class Canned:
    """vms by name; posted: (path, query, body) of each changing call; fault: a Problem for every call; cuts: how many
    event streams still are to be cut after each event; more: answers to other reads, by path; accepted: what the answer to a
    changing call about a VM has besides."""

    def __init__(self) -> None:
        self.api = ""
        self.vms = {"web-1": vm("web-1"), "old": vm("old", "stopped")}
        self.posted: list[tuple[str, str, dict[str, str], Any]] = []
        self.io_looks = 0
        self.steps = ["placed on n1", "256 MiB reserved on n1"]
        self.outcome = ("done", "web-1 runs on n1")
        self.looks = 0
        self.fault: Problem | None = None
        self.exec = {"exit_code": 0, "stdout": b"6.1.0\n", "stderr": b"", "truncated": False}
        self.events = [event(1), event(2, "old"), event(3)]
        self.cuts = 0
        self.more: dict[str, Any] = {}
        self.accepted: dict[str, Any] = {}

    def task(self) -> dict[str, Any]:
        told = self.steps[: self.looks + 1]
        over = self.looks >= len(self.steps)
        self.looks += 1
        state, sentence = self.outcome if over else ("running", "")
        steps = [{"at_us": AT_US, "text": text} for text in told]
        return {
            "id": "task-1", "kind": "start", "object": "web-1", "state": state, "step": told[-1], "steps": steps,
            "sentence": sentence, "started": AT_US, "ended": AT_US if over else 0,
        }  # fmt: skip

    def answer(self, method: str, parts: list[str], query: dict[str, str], body: Any) -> tuple[int, Any]:
        """(status, JSON) of a call; parts: the path behind /v1/."""
        if method != "GET":
            self.posted.append((method, "/".join(parts), query, body))
        match method, parts:
            case "GET", _ if "/".join(parts) in self.more:
                return 200, self.more["/".join(parts)]
            case "GET", ["vms"]:
                return 200, {"items": list(self.vms.values())}
            case "GET", ["vms", name]:
                return 200, self.find(name)
            case "GET", ["vms", "web-1", "verdicts"]:
                return 200, {"items": [VERDICT]}
            case "GET", ["vms", name, "schedule"]:
                self.find(name)
                return 200, SCHEDULE
            case "GET", ["vms", name, "io"]:
                self.find(name)
                self.io_looks += 1
                return 200, IO | {"window_ms": 0 if self.io_looks == 1 else 1000}
            case "POST", ["vms", name, "exec"]:
                self.find(name)
                out = {k: base64.b64encode(v).decode() for k, v in self.exec.items() if isinstance(v, bytes)}
                return 200, {
                    "exit_code": self.exec["exit_code"], "stdout_b64": out["stdout"], "stderr_b64": out["stderr"],
                    "truncated": self.exec["truncated"],
                }  # fmt: skip
            case "GET", ["tasks"]:
                return 200, {"items": [self.task()]}
            case "GET", ["tasks", "task-1"]:
                return 200, self.task()
            case "GET", [kind]:
                known: dict[str, Any] = {
                    "nodes": {"items": [NODE]},
                    "images": {"items": [IMAGE]},
                    "networks": {"items": [NETWORK]},
                    "pools": {"items": [POOL]},
                    "alerts": {"items": [ALERT]},
                    "verdicts": {"items": [VERDICT, VERDICT | {"number": 3, "treated": False, "why_not": "its guard is off"}]},
                    "tokens": {"items": [TOKEN]},
                    "cluster": CLUSTER,
                }
                return 200, known[kind]
            case "GET", ["pools", "local"]:
                return 200, {"items": [POOL]}
            case "GET", ["ha", "fences"]:
                return 200, {"items": [FENCE]}
            case "GET", ["ha", "fences", "n1"]:
                return 200, FENCE
            case "GET", ["networks", "blue"]:
                return 200, NETWORK
            case "GET", ["nodes", "n1"]:
                return 200, NODE
            case "GET", ["nodes", "n1", "memory"]:
                return 200, {"node": "n1", "ledger": {}, "pressure": None}
            case "POST", ["tokens", *_]:
                return 201, {"token": "t2.secret", "expires_us": AT_US, "id": "t2"}
            case "DELETE", ["tokens", _]:
                return 204, None
            case (("POST" | "DELETE" | "PATCH"), ["vms", name, *_]):
                self.find(name)
                return 202, {"task": "task-1", "status": "accepted", "stream": f"vm-{name}", "version": 3} | self.accepted
            case (("POST" | "DELETE" | "PATCH" | "PUT"), _):
                return 202, {"task": "task-1", "status": "accepted", "stream": parts[0], "version": 3}
        raise Problem(404, "UNKNOWN", f"there is no {'/'.join(parts)}", "list first")

    def find(self, name: str) -> dict[str, Any]:
        if name not in self.vms:
            raise Problem(404, "UNKNOWN", f"there is no vm `{name}` that this token may see", "list the vms first")
        return self.vms[name]


def _handler(canned: Canned) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            self._serve()

        do_POST = do_DELETE = do_PATCH = do_PUT = do_GET

        def _serve(self) -> None:
            parts = urlsplit(self.path)
            query = {k: v[0] for k, v in parse_qs(parts.query).items()}
            data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            try:
                self._permit()
                if parts.path == "/v1/events":
                    self._events(query)
                    return
                known = parts.path.removeprefix("/v1/").split("/")
                is_json = self.headers.get("Content-Type") == "application/json"
                status, body = canned.answer(self.command, known, query, json.loads(data) if is_json else data)
                self._send(status, body, "application/json")
            except Problem as problem:
                self._send(int(str(problem.body["status"])), problem.body, "application/problem+json")

        def _permit(self) -> None:
            token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
            if canned.fault is not None:
                raise canned.fault
            if token not in ("admin", "viewer"):
                raise Problem(401, "NO_TOKEN", "the token is not known", "ask an admin for one")
            if token == "viewer" and self.command != "GET":
                raise Problem(403, "NOT_PERMITTED", "a viewer may not change anything", "use an operator's token")

        def _send(self, status: int, body: Any, kind: str) -> None:
            data = b"" if body is None else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def _events(self, query: dict[str, str]) -> None:
            after = int(query.get("after", 0))
            behind = [e for e in canned.events if e["position"] > after]
            if query.get("follow") != "true":
                self._send(
                    200,
                    {"items": behind[:2], "position": behind[:2][-1]["position"] if behind else after},
                    "application/json",
                )
                return
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            self.wfile.write(b": from %d\n\n" % after)
            for found in behind:
                self.wfile.write(
                    b"id: %d\nevent: %s\ndata: %s\n\n"
                    % (found["position"], found["type"].encode(), json.dumps(found).encode())
                )
                if canned.cuts:
                    canned.cuts -= 1
                    return
            canned.fault = Problem(401, "NO_TOKEN", "the token is no longer valid")
            self.wfile.write(b'event: cut\ndata: {"after": 3, "sentence": "the token is no longer valid"}\n\n')

    return Handler


@contextmanager
def canned_gateway() -> Iterator[Canned]:
    """Serves on a free loopback port until the block ends."""
    canned = Canned()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(canned))
    canned.api = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield canned
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
