"""One trace tells the story of a start, from the HTTP request to QEMU's monitor; one page has the figures of all."""

from __future__ import annotations

import hashlib
import http.client
import json
import re
import threading
from collections import defaultdict
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.e2e.conftest import EmbeddedCluster, embedded

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"
LINE = re.compile(r'asv_[a-z0-9_]+(\{[a-z_]+="[^"\n]*"(,[a-z_]+="[^"\n]*")*\})? [-+0-9.e]+')


class Collector(ThreadingHTTPServer):
    """Takes traces over OTLP/HTTP as a collector does. `spans`: by trace id, (process, name of the span)."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.spans: defaultdict[str, set[tuple[str, str]]] = defaultdict(set)
        self.texts: list[bytes] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def take(self, body: bytes) -> None:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            process = next(a.value.string_value for a in resource.resource.attributes if a.key == "service.name")
            for scope in resource.scope_spans:
                for span in scope.spans:
                    self.spans[span.trace_id.hex()].add((process, span.name))
        self.texts.append(body)


class Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        assert self.path == "/v1/traces" and self.headers.get("Content-Encoding") is None
        self.server.take(body)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: Any) -> None:
        """Nothing: the test says what was missing."""


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as made:
        yield made
        made.shutdown()


@pytest.fixture(scope="module")
def traced(collector: Collector) -> Iterator[EmbeddedCluster]:
    """A cluster with one process per service that sends its traces to the collector."""
    endpoint = f"http://127.0.0.1:{collector.server_port}"
    with embedded("--separate", ASV_OTLP_ENDPOINT=endpoint, ASV_TRACE_RATIO="0") as one:
        yield one


def call(cluster: EmbeddedCluster, method: str, path: str, body: Any = None, trace: str = "") -> tuple[int, bytes]:
    """As the admin of that cluster."""
    record = json.loads((cluster.home / "cluster.json").read_text())
    connection = http.client.HTTPConnection("127.0.0.1", record["ports"]["gateway"], timeout=30)
    token = (cluster.home / "tokens/admin.token").read_text().strip()
    headers = {"Authorization": f"Bearer {token}", **({"traceparent": trace} if trace else {})}
    connection.request(method, urlsplit(path).geturl(), json.dumps(body) if body is not None else None, headers)
    answer = connection.getresponse()
    found = answer.status, answer.read()
    connection.close()
    return found


@pytest.mark.timeout(200)
def test_one_trace_from_the_request_to_the_monitor(traced: EmbeddedCluster, collector: Collector) -> None:
    wish = {"name": "web-1", "memory_mib": 128, "image": "tiny", "start": True}
    status, said = call(traced, "POST", "/v1/vms", wish, PARENT)
    assert status == 202, said
    traced.until(lambda: traced.json("vm", "show", "web-1")["state"] == "running", "web-1 to run")

    def whole() -> bool:
        names = {name for _, name in collector.spans[TRACE]}
        processes = {process for process, _ in collector.spans[TRACE]}
        return {"compute", "memory", "io", "gateway"} < processes and {"qmp cont", "agent start"} < names

    traced.until(whole, "all spans of the trace")
    spans = collector.spans[TRACE]
    node = traced.json("vm", "show", "web-1")["node"]
    assert {("gateway", "POST /v1/vms"), ("gateway", "ask compute start_vm"), ("compute", "compute start_vm")} < spans
    assert {(node, "agent start"), (node, "qmp cont"), (node, "qmp query-name")} < spans
    assert ("compute", f"order {node}") in spans
    assert set(collector.spans) == {TRACE}, "nothing else was sampled"


@pytest.mark.timeout(200)
def test_what_runs_in_a_guest_is_in_no_trace(traced: EmbeddedCluster, collector: Collector) -> None:
    secret = "correct-horse-battery"
    body = {"argv": ["echo", secret]}
    traced.until(lambda: call(traced, "POST", "/v1/vms/web-1/exec", body, PARENT)[0] == 200, "the guest to answer")
    traced.until(lambda: ("gateway", "POST /v1/vms/{vm}/exec") in collector.spans[TRACE], "the request's span")
    assert not any(secret.encode() in text for text in collector.texts)


@pytest.mark.timeout(200)
def test_one_page_has_the_figures_of_all(traced: EmbeddedCluster) -> None:
    status, said = call(traced, "GET", "/metrics")
    lines = said.decode().splitlines()
    assert status == 200
    assert all(line.startswith("# ") or LINE.fullmatch(line) for line in lines), lines
    for service in ("compute", "memory", "io", "relay"):
        assert f'asv_up{{service="{service}"}} 1' in lines
    for node in ("n1", "n2", "n3"):
        assert f'asv_up{{node="{node}"}} 1' in lines
    node = traced.json("vm", "show", "web-1")["node"]
    assert f'asv_agent_vms{{node="{node}",state="running"}} 1' in lines
    assert f'asv_agent_verbs_total{{node="{node}",verb="start",outcome="done"}} 1' in lines
    assert 'asv_bugs_total{service="compute"} 0' in lines
    assert any(line.startswith('asv_append_seconds_count{service="compute"}') for line in lines)
    assert any(line.startswith('asv_log_batches_total{process="compute"}') for line in lines)
    assert any(line.startswith('asv_process_resident_bytes{process="gateway"}') for line in lines)
    heads = [line for line in lines if line.startswith("# TYPE")]
    assert len(heads) == len(set(heads)), "each figure is declared once"


@pytest.mark.timeout(200)
def test_a_screenshot_is_saved_and_kept(traced: EmbeddedCluster, tmp_path: Path) -> None:
    file = tmp_path / "screen.png"
    said = traced.json("vm", "screenshot", "web-1", "--output", str(file))
    png = file.read_bytes()
    assert png.startswith(b"\x89PNG\r\n\x1a\n") and len(png) == said["bytes"]
    assert said["blob"] == hashlib.sha256(png).hexdigest()
    code, _ = traced.refused("vm", "screenshot", "no-such-vm", "--output", str(file))
    assert code == 3


@pytest.mark.timeout(200)
def test_status_says_how_far_behind_each_service_is(traced: EmbeddedCluster) -> None:
    def caught_up() -> bool:
        services = traced.json("cluster", "status")["services"]
        behind = {name: one["behind"] for name, one in services.items()}
        return set(behind) == {"compute", "memory", "io", "ha", "relay"} and set(behind.values()) == {0}

    traced.until(caught_up, "all services to be at the log's end")
    assert "compute: ok" in traced.ctl("cluster", "status")
