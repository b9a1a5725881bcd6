"""A process's figures: counters, gauges and histograms, as Prometheus text. Names end in their unit; labels are few and closed.

COMMANDS = METRICS.counter("asv_commands_total", "commands decided, by outcome", ("service", "outcome"))
COMMANDS.add(1, "compute", "accepted")
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence

SERIES_MAX = 1024
"""label combinations of one figure; further ones are counted under `other`"""
SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""upper bounds for durations, in seconds"""


class _Figure:
    kind = ""

    def __init__(self, name: str, help: str, labels: Sequence[str]) -> None:
        self.name = name
        self.help = help
        self.labels = tuple(labels)

    def lines(self) -> list[str]:
        raise NotImplementedError

    def _bounded(self, values: tuple[str, ...], series: dict[tuple[str, ...], float]) -> tuple[str, ...]:
        if len(values) != len(self.labels):
            raise ValueError(f"{self.name} has the labels {self.labels}, not {len(values)} of them")
        return values if values in series or len(series) < SERIES_MAX else ("other",) * len(values)

    def _label(self, values: Sequence[str], extra: str = "") -> str:
        pairs = [f'{k}="{_escaped(v)}"' for k, v in zip(self.labels, values, strict=True)]
        pairs += [extra] if extra else []
        return "{" + ",".join(pairs) + "}" if pairs else ""


class Counter(_Figure):
    """Only rises."""

    kind = "counter"

    def __init__(self, name: str, help: str, labels: Sequence[str] = ()) -> None:
        super().__init__(name, help, labels)
        self._series: dict[tuple[str, ...], float] = {}

    def add(self, amount: float = 1, *values: str) -> None:
        key = self._bounded(values, self._series)
        self._series[key] = self._series.get(key, 0) + amount

    def value(self, *values: str) -> float:
        return self._series.get(values, 0)

    def lines(self) -> list[str]:
        return [f"{self.name}{self._label(k)} {_number(v)}" for k, v in sorted(self._series.items())]


class Gauge(Counter):
    """A value as it is now: set, or asked for when it is shown (`read`)."""

    kind = "gauge"

    def set(self, value: float, *values: str) -> None:
        self._series[self._bounded(values, self._series)] = value

    def read(self, ask: Callable[[], float]) -> None:
        """`ask` is called at each rendering; for a gauge without labels."""
        self._ask = ask

    def lines(self) -> list[str]:
        ask = getattr(self, "_ask", None)
        if ask is not None:
            self.set(ask())
        return super().lines()


class Histogram(_Figure):
    """How often a value fell under each of the fixed upper bounds."""

    kind = "histogram"

    def __init__(self, name: str, help: str, labels: Sequence[str] = (), bounds: Sequence[float] = SECONDS) -> None:
        super().__init__(name, help, labels)
        self._bounds = tuple(sorted(bounds))
        self._counts: dict[tuple[str, ...], list[int]] = {}
        self._sums: dict[tuple[str, ...], float] = {}

    def observe(self, value: float, *values: str) -> None:
        key = self._bounded(values, self._sums)
        counts = self._counts.get(key)
        if counts is None:
            counts = self._counts[key] = [0] * (len(self._bounds) + 1)
        counts[bisect_left(self._bounds, value)] += 1
        self._sums[key] = self._sums.get(key, 0.0) + value

    def lines(self) -> list[str]:
        out: list[str] = []
        for key, counts in sorted(self._counts.items()):
            total = 0
            for bound, count in zip((*self._bounds, float("inf")), counts, strict=True):
                total += count
                edge = "+Inf" if bound == float("inf") else _number(bound)
                out.append(f"{self.name}_bucket{self._label(key, f'le="{edge}"')} {total}")
            out.append(f"{self.name}_sum{self._label(key)} {_number(self._sums[key])}")
            out.append(f"{self.name}_count{self._label(key)} {total}")
        return out


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

    def render(self) -> str:
        """Prometheus text, format 0.0.4; figures by name."""
        out: list[str] = []
        for name, figure in sorted(self._figures.items()):
            out += [f"# HELP {name} {figure.help}", f"# TYPE {name} {figure.kind}", *figure.lines()]
        return "\n".join(out) + "\n" if out else ""

    def _figure[F: _Figure](self, figure: F) -> F:
        found = self._figures.setdefault(figure.name, figure)
        if type(found) is not type(figure) or found.labels != figure.labels:
            raise ValueError(f"{figure.name} is a {found.kind} with the labels {found.labels} already")
        return found


METRICS = Metrics()
"""this process's"""


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
