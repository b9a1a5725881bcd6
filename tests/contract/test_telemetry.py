"""Traces run from a parent string through nested spans; an unsampled process never loads OpenTelemetry; figures render."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from libs.common import telemetry
from libs.common.metrics import SERIES_MAX, Metrics

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def exported() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    telemetry.start("test", exporter=exporter)
    yield exporter
    telemetry.stop()


def ids(span: ReadableSpan) -> tuple[str, str]:
    context = span.context
    assert context is not None
    return f"{context.trace_id:032x}", f"{context.span_id:016x}"


def test_a_trace_runs_from_a_string_through_nested_spans(exported: InMemorySpanExporter) -> None:
    with telemetry.span("gateway", PARENT, path="/v1/vms") as outer, telemetry.span("decide") as inner:
        assert telemetry.current() == inner.traceparent
        inner.note(stream="vm-a")
    with telemetry.span("agent", inner.traceparent):  # another process, as it were
        pass
    spans = {span.name: span for span in exported.get_finished_spans()}
    assert {ids(span)[0] for span in spans.values()} == {"0af7651916cd43dd8448eb211c80319c"}
    parents = {name: f"{span.parent.span_id:016x}" for name, span in spans.items() if span.parent}
    assert parents == {
        "gateway": "b7ad6b7169203331",
        "decide": ids(spans["gateway"])[1],
        "agent": ids(spans["decide"])[1],
    }
    assert outer.traceparent.split("-")[2] == ids(spans["gateway"])[1]
    assert spans["decide"].attributes == {"stream": "vm-a"}
    assert telemetry.current() == ""


@pytest.mark.parametrize(
    "parent", ["", "nonsense", "00-0-0-01", PARENT[:-2] + "00", "00-" + "0" * 32 + "-" + "0" * 16 + "-01"]
)
def test_what_is_not_sampled_is_not_recorded(exported: InMemorySpanExporter, parent: str) -> None:
    with telemetry.span("decide", parent) as here, telemetry.span("append") as inner:
        assert here.traceparent == inner.traceparent == parent
        here.note(ignored=True)
    assert exported.get_finished_spans() == ()


def test_a_failure_is_marked_without_its_text(exported: InMemorySpanExporter) -> None:
    with pytest.raises(ValueError, match="hunter2"), telemetry.span("start", PARENT):
        raise ValueError("password hunter2")
    (span,) = exported.get_finished_spans()
    assert not span.status.is_ok
    assert "hunter2" not in span.to_json()


def test_sampling_follows_the_ratio(exported: InMemorySpanExporter) -> None:
    assert telemetry.new_traceparent(sample=False) == ""
    assert len(telemetry.new_traceparent(sample=True)) == len(PARENT)
    telemetry.start("test", exporter=exported, ratio=1.0)
    assert telemetry.new_traceparent() != telemetry.new_traceparent()
    telemetry.start("test", exporter=exported, ratio=0.1)
    assert 500 < sum(telemetry.sampled() for _ in range(10_000)) < 1500
    telemetry.stop()
    assert not telemetry.sampled()
    with pytest.raises(ValueError, match="between 0 and 1"):
        telemetry.start("test", ratio=2)


def test_a_process_that_samples_nothing_never_loads_opentelemetry() -> None:
    program = (
        "import sys; from libs.common import telemetry as t; t.start('x', 'http://127.0.0.1:1')\n"
        "with t.span('a', ''): pass\n"
        "t.start('x')\n"
        f"with t.span('a', {PARENT!r}) as here: assert here.traceparent == {PARENT!r}\n"
        "assert not any(m.startswith('opentelemetry') for m in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=REPOSITORY)


def test_an_unsampled_span_costs_little() -> None:
    begun = time.perf_counter()
    for _ in range(20_000):
        with telemetry.span("decide", ""):
            pass
    assert (time.perf_counter() - begun) / 20_000 < 20e-6


def test_figures_as_prometheus_text() -> None:
    figures = Metrics()
    commands = figures.counter("asv_commands_total", "commands decided", ("service", "outcome"))
    commands.add(1, "compute", "accepted")
    commands.add(2, "compute", 'odd"\n')
    figures.gauge("asv_waiting", "commands waiting").read(lambda: 7)
    took = figures.histogram("asv_append_seconds", "time to append", bounds=(0.1, 1))
    for value in (0.05, 0.1, 0.5, 3):
        took.observe(value)
    assert figures.render() == (
        "# HELP asv_append_seconds time to append\n# TYPE asv_append_seconds histogram\n"
        'asv_append_seconds_bucket{le="0.1"} 2\nasv_append_seconds_bucket{le="1"} 3\n'
        'asv_append_seconds_bucket{le="+Inf"} 4\nasv_append_seconds_sum 3.65\nasv_append_seconds_count 4\n'
        "# HELP asv_commands_total commands decided\n# TYPE asv_commands_total counter\n"
        'asv_commands_total{service="compute",outcome="accepted"} 1\n'
        'asv_commands_total{service="compute",outcome="odd\\"\\n"} 2\n'
        "# HELP asv_waiting commands waiting\n# TYPE asv_waiting gauge\nasv_waiting 7\n"
    )
    assert figures.counter("asv_commands_total", "", ("service", "outcome")) is commands
    with pytest.raises(ValueError, match="already"):
        figures.gauge("asv_commands_total", "")
    with pytest.raises(ValueError, match="labels"):
        commands.add(1, "compute")


def test_figures_are_bounded() -> None:
    counter = Metrics().counter("asv_x_total", "x", ("vm",))
    for i in range(SERIES_MAX + 10):
        counter.add(1, f"vm-{i}")
    assert counter.value("other") == 10
