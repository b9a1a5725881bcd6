"""A process's figures: counters, gauges and histograms, as Prometheus text. Names end in their unit; labels are few and closed.

COMMANDS = METRICS.counter("asv_commands_total", "commands decided, by outcome", ("service", "outcome"))
COMMANDS.add(1, "compute", "accepted")

Figures of other processes come as Family Structs (`Figures`) and are rendered beside our own (`render`).
"""

from __future__ import annotations

import math
import os
import resource
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import msgspec

SERIES_MAX = 1024
"""label combinations of one figure; further ones are counted under `other`"""
SAMPLES_MAX = 32 * SERIES_MAX
FAMILIES_MAX = 256
SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""upper bounds for durations, in seconds"""

FigureName = Annotated[str, msgspec.Meta(pattern=r"^asv_[a-z0-9_]{1,80}$")]
LabelName = Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
LabelValue = Annotated[str, msgspec.Meta(max_length=256)]
Help = Annotated[str, msgspec.Meta(pattern=r"^[^\\\n\r]*$", max_length=300)]
type Labels = tuple[tuple[LabelName, LabelValue], ...]


class Sample(msgspec.Struct, frozen=True, array_like=True):
    """One line: the figure's name and `suffix`, the labels, the value."""

    labels: Labels
    value: float
    suffix: Literal["", "_bucket", "_sum", "_count"] = ""


class Family(msgspec.Struct, frozen=True):
    """One figure with all its series."""

    name: FigureName
    kind: Literal["counter", "gauge", "histogram"]
    help: Help
    samples: Annotated[tuple[Sample, ...], msgspec.Meta(max_length=SAMPLES_MAX)] = ()


class Figures(msgspec.Struct, frozen=True):
    """What a service or an agent answers. own: its figures; shared: those of its process, which it may have in common with
    others that name the same `process`."""

    process: LabelValue = ""
    own: Annotated[tuple[Family, ...], msgspec.Meta(max_length=FAMILIES_MAX)] = ()
    shared: Annotated[tuple[Family, ...], msgspec.Meta(max_length=FAMILIES_MAX)] = ()


class _Figure:
    kind: Literal["counter", "gauge", "histogram"]

    def __init__(self, name: str, help: str, labels: Sequence[str]) -> None:
        self.name = name
        self.help = help
        self.labels = tuple(labels)

    def samples(self) -> Iterable[Sample]:
        raise NotImplementedError

    def family(self) -> Family:
        return Family(self.name, self.kind, self.help, tuple(self.samples()))

    def _bounded(self, values: tuple[str, ...], series: Mapping[tuple[str, ...], object]) -> tuple[str, ...]:
        if len(values) != len(self.labels):
            raise ValueError(f"{self.name} has the labels {self.labels}, not {len(values)} of them")
        return values if values in series or len(series) < SERIES_MAX else ("other",) * len(values)

    def _pairs(self, values: Sequence[str]) -> Labels:
        return tuple(zip(self.labels, values, strict=True))


class Counter(_Figure):
    """Only rises: added to, or, for one without labels, asked for when it is shown (`read`)."""

    kind: Literal["counter", "gauge", "histogram"] = "counter"

    def __init__(self, name: str, help: str, labels: Sequence[str] = ()) -> None:
        super().__init__(name, help, labels)
        self._series: dict[tuple[str, ...], float] = {}
        self._ask: Callable[[], float] | None = None

    def add(self, amount: float = 1, *values: str) -> None:
        key = self._bounded(values, self._series)
        self._series[key] = self._series.get(key, 0) + amount

    def value(self, *values: str) -> float:
        return self._series.get(values, 0)

    def read(self, ask: Callable[[], float]) -> None:
        """`ask` is called whenever the figure is shown; for one without labels."""
        self._ask = ask

    def samples(self) -> Iterable[Sample]:
        if self._ask is not None:
            self._series[()] = self._ask()
        return [Sample(self._pairs(k), v) for k, v in sorted(self._series.items())]


class Gauge(Counter):
    """A value as it is now: set, or asked for when it is shown."""

    kind: Literal["counter", "gauge", "histogram"] = "gauge"

    def set(self, value: float, *values: str) -> None:
        self._series[self._bounded(values, self._series)] = value


class Durations:
    """How often a value fell under each bound, and their sum; as cheap as it can be, for hot paths."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: Sequence[float] = SECONDS) -> None:
        self._bounds = tuple(sorted(bounds))
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0

    def note(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def samples(self, labels: Labels = ()) -> list[Sample]:
        out: list[Sample] = []
        total = 0
        for bound, count in zip((*map(_number, self._bounds), "+Inf"), self._counts, strict=True):
            total += count
            out.append(Sample((*labels, ("le", bound)), total, "_bucket"))
        return [*out, Sample(labels, self._sum, "_sum"), Sample(labels, total, "_count")]


class Histogram(_Figure):
    """Durations per label combination."""

    kind: Literal["counter", "gauge", "histogram"] = "histogram"

    def __init__(self, name: str, help: str, labels: Sequence[str] = (), bounds: Sequence[float] = SECONDS) -> None:
        super().__init__(name, help, labels)
        self._bounds = tuple(bounds)
        self._series: dict[tuple[str, ...], Durations] = {}

    def observe(self, value: float, *values: str) -> None:
        key = self._bounded(values, self._series)
        durations = self._series.get(key)
        if durations is None:
            durations = self._series[key] = Durations(self._bounds)
        durations.note(value)

    def samples(self) -> Iterable[Sample]:
        return [s for key, durations in sorted(self._series.items()) for s in durations.samples(self._pairs(key))]


class Metrics:
    """The figures of one process. Asking twice for a name gives the same figure; for another kind of it, ValueError."""

    def __init__(self) -> None:
        self._figures: dict[str, _Figure] = {}

    def counter(self, name: str, help: str, labels: Sequence[str] = ()) -> Counter:
        return self._figure(Counter(name, help, labels))

    def gauge(self, name: str, help: str, labels: Sequence[str] = ()) -> Gauge:
        return self._figure(Gauge(name, help, labels))

    def histogram(
        self, name: str, help: str, labels: Sequence[str] = (), bounds: Sequence[float] = SECONDS
    ) -> Histogram:
        return self._figure(Histogram(name, help, labels, bounds))

    def families(self) -> tuple[Family, ...]:
        """As they are now, by name."""
        return tuple(figure.family() for _, figure in sorted(self._figures.items()))

    def render(self) -> str:
        """Prometheus text, format 0.0.4; figures by name."""
        return render([({}, self.families())])

    def _figure[F: _Figure](self, figure: F) -> F:
        found = self._figures.setdefault(figure.name, figure)
        if type(found) is not type(figure) or found.labels != figure.labels:
            raise ValueError(f"{figure.name} is a {found.kind} with the labels {found.labels} already")
        return found


METRICS = Metrics()
"""this process's"""


def of_process() -> tuple[Family, ...]:
    """METRICS, with what the kernel says of this process."""
    METRICS.gauge("asv_process_resident_bytes", "memory of the process that is in RAM").read(_resident_bytes)
    METRICS.counter("asv_process_cpu_seconds_total", "CPU time of the process").read(_cpu_seconds)
    return METRICS.families()


def _resident_bytes() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return round(used.ru_utime + used.ru_stime, 3)


def render(groups: Iterable[tuple[Mapping[str, str], Iterable[Family]]]) -> str:
    """Prometheus text, format 0.0.4, of many sources: each with labels of its own, which go before all that it says itself. A
    figure is of the kind that its first source says; others that disagree are left out."""
    lines: dict[str, list[str]] = {}
    kinds: dict[str, str] = {}
    for extra, families in groups:
        for family in families:
            if kinds.setdefault(family.name, family.kind) != family.kind:
                continue
            if family.name not in lines:
                head = [f"# HELP {family.name} {family.help}", f"# TYPE {family.name} {family.kind}"]
                lines[family.name] = head
            lines[family.name] += [_line(family.name, sample, extra) for sample in family.samples]
    return "".join(f"{line}\n" for name in sorted(lines) for line in lines[name])


def _line(name: str, sample: Sample, extra: Mapping[str, str]) -> str:
    labels = dict(extra) | {key: value for key, value in sample.labels if key not in extra}
    pairs = ",".join(f'{key}="{_escaped(value)}"' for key, value in labels.items())
    return f"{name}{sample.suffix}{f'{{{pairs}}}' if pairs else ''} {_number(sample.value)}"


def _number(value: float) -> str:
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) else repr(value)


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
