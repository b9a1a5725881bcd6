"""Traces: one story from the HTTP request through commands, events and orders to the agent's QMP call.

Sampling is decided once, at the edge (`new_traceparent`); what travels is the W3C traceparent string, empty when the request is
not sampled. `span("…", "")` does nothing and costs next to nothing; OpenTelemetry is imported only by a process that was given
an endpoint (`start`), and then at its first sampled span.

    with span("decide StartVm", envelope.trace, stream="vm-a") as here:
        ...                                   # here.traceparent goes on to whoever is called from within
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

RATIO = 0.01
"""share of requests that are traced, unless set"""
QUEUE_MAX = 2048
"""spans waiting to be sent; further ones are dropped"""
EXPORT_S_MAX = 5


class Here:
    """The current span: its traceparent for whatever is called from within, empty when nothing is recorded."""

    __slots__ = ("_span", "traceparent")

    def __init__(self, traceparent: str = "", span: Any = None) -> None:
        self.traceparent = traceparent
        self._span = span

    def note(self, **attributes: str | int | float | bool) -> None:
        """Adds attributes. Never put a secret, guest output or exec arguments here."""
        if self._span is not None:
            self._span.set_attributes(attributes)


NOWHERE = Here()
_NOTHING: AbstractContextManager[Here] = nullcontext(NOWHERE)
_current: ContextVar[Here] = ContextVar("asv_trace", default=NOWHERE)


class _Setup:
    """This process's tracing: where it is called `service`, and the tracer once it was needed."""

    def __init__(self) -> None:
        self.endpoint = ""
        self.service = ""
        self.ratio = RATIO
        self.exporter: Any = None
        self.provider: Any = None
        self.tracer: Any = None
        self.chance = random.Random(secrets.randbits(64))

    @property
    def on(self) -> bool:
        return bool(self.endpoint or self.exporter is not None)


_setup = _Setup()


def start(service: str, endpoint: str = "", ratio: float = RATIO, exporter: Any = None) -> None:
    """Trace as `service`, to an OTLP/HTTP collector (`http://127.0.0.1:4318`). Without endpoint and exporter: no tracing at all.

    ratio     share of new requests that are sampled, 0 to 1
    exporter  an OpenTelemetry SpanExporter in place of the collector (tests)
    """
    if not 0 <= ratio <= 1:
        raise ValueError(f"the sampling ratio is {ratio}; it should be between 0 and 1")
    stop()
    _setup.service, _setup.endpoint, _setup.ratio, _setup.exporter = service, endpoint.rstrip("/"), ratio, exporter


def stop() -> None:
    """Send what waits (at most EXPORT_S_MAX), then trace no more."""
    if _setup.provider is not None:
        _setup.provider.force_flush(EXPORT_S_MAX * 1000)
        _setup.provider.shutdown()
    _setup.endpoint, _setup.exporter, _setup.provider, _setup.tracer = "", None, None, None


def sampled() -> bool:
    """Whether the next request is one of the traced share."""
    return _setup.on and _setup.chance.random() < _setup.ratio


def new_traceparent(sample: bool | None = None) -> str:
    """A trace's beginning for a new request; empty when it is not sampled. sample None: by the ratio."""
    if not (sampled() if sample is None else sample):
        return ""
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"


def current() -> str:
    """The traceparent of the span we are in; empty outside of any."""
    return _current.get().traceparent


def span(
    name: str, traceparent: str | None = None, **attributes: str | int | float | bool
) -> AbstractContextManager[Here]:
    """A span under `traceparent` (None: under the current one). Empty, malformed, or tracing off: nothing is recorded, and
    `here.traceparent` is what came in, so that a process without tracing still passes the trace on. An exception marks the
    span as failed, by its type only."""
    parent = current() if traceparent is None else traceparent
    if not parent:
        return _NOTHING
    return _span(name, parent, attributes)


@contextmanager
def _span(name: str, parent: str, attributes: dict[str, Any]) -> Iterator[Here]:
    context = _parent_context(parent) if _setup.on else None
    if context is None:
        here = Here(parent)
        token = _current.set(here)
        try:
            yield here
        finally:
            _current.reset(token)
        return
    from opentelemetry.trace import Status, StatusCode

    recording = _tracer().start_span(name, context=context, attributes=attributes)
    ids = recording.get_span_context()
    here = Here(f"00-{ids.trace_id:032x}-{ids.span_id:016x}-01", recording)
    token = _current.set(here)
    try:
        yield here
    except Exception as error:
        # The text of an error may hold what must not leave this process.
        recording.set_status(Status(StatusCode.ERROR, type(error).__name__))
        raise
    finally:
        _current.reset(token)
        recording.end()


def _parent_context(traceparent: str) -> Any:
    """None for a malformed one, or one that says `not sampled`."""
    from opentelemetry import trace

    parts = traceparent.split("-")
    try:
        version, trace_id, span_id, flags = parts
        ids = int(trace_id, 16), int(span_id, 16), int(flags, 16)
    except ValueError:
        return None
    if version != "00" or len(trace_id) != 32 or len(span_id) != 16 or not (ids[0] and ids[1] and ids[2] & 1):
        return None
    remote = trace.SpanContext(ids[0], ids[1], is_remote=True, trace_flags=trace.TraceFlags(trace.TraceFlags.SAMPLED))
    return trace.set_span_in_context(trace.NonRecordingSpan(remote))


def _tracer() -> Any:
    if _setup.tracer is None:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
        from opentelemetry.sdk.trace.sampling import ALWAYS_ON

        provider = TracerProvider(
            resource=Resource({"service.name": _setup.service}), sampler=ALWAYS_ON, shutdown_on_exit=False
        )
        if _setup.exporter is not None:
            provider.add_span_processor(SimpleSpanProcessor(_setup.exporter))
        else:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

            exporter = OTLPSpanExporter(endpoint=f"{_setup.endpoint}/v1/traces", timeout=EXPORT_S_MAX)
            provider.add_span_processor(BatchSpanProcessor(exporter, max_queue_size=QUEUE_MAX))
        _setup.provider = provider
        _setup.tracer = provider.get_tracer("asv")
    return _setup.tracer
