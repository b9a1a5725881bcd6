"""What a service counts, for `query.<service>.metrics`: plain attributes on the hot path, read when they are asked for."""

from __future__ import annotations

from collections import defaultdict

from libs.common.host.core import Host
from libs.common.log import Appended, Conflict, LogError
from libs.common.metrics import Durations, Family, Sample, of_process
from libs.common.metrics import Figures as Figures


class Counts:
    """Since the process began."""

    __slots__ = ("append_s", "appends", "bugs", "commands", "conflicts", "failures", "orders", "reactions", "replies")

    def __init__(self) -> None:
        self.commands = self.appends = self.conflicts = self.failures = self.reactions = self.orders = self.bugs = 0
        self.replies: defaultdict[str, int] = defaultdict(int, accepted=0, refused=0, invalid=0, unavailable=0)
        self.append_s = Durations()

    def appended(self, what: str, took_s: float, outcome: Appended | LogError) -> None:
        """An append of a command, of a group of `reactions`, or of a consumer position ended."""
        self.appends += 1
        self.append_s.note(took_s)
        if isinstance(outcome, LogError):
            self.failures += 1
            return
        if outcome.stopped is not None:
            self.conflicts += isinstance(outcome.stopped, Conflict)
        if what == "reactions":
            self.reactions += len(outcome.positions)


def counter(name: str, help: str, value: float) -> Family:
    return Family(name, "counter", help, (Sample((), value),))


def gauge(name: str, help: str, value: float) -> Family:
    return Family(name, "gauge", help, (Sample((), value),))


def of_service(process: str, host: Host, counts: Counts) -> Figures:
    """process: the name of this process. The label `service` is put to them by whoever gathers them."""
    answered = tuple(Sample((("outcome", status),), n) for status, n in sorted(counts.replies.items()))
    own = (
        counter("asv_commands_heard_total", "commands and facts heard", counts.commands),
        Family("asv_commands_total", "counter", "commands and facts answered, by outcome", answered),
        counter("asv_appends_total", "appends to the log", counts.appends),
        Family("asv_append_seconds", "histogram", "from submit to committed", tuple(counts.append_s.samples())),
        counter("asv_append_conflicts_total", "appends that lost against another writer", counts.conflicts),
        counter("asv_append_failures_total", "appends that the log could not take", counts.failures),
        counter("asv_reactions_total", "own commands committed in reaction to events", counts.reactions),
        counter("asv_orders_total", "orders sent to agents, repetitions too", counts.orders),
        gauge("asv_orders_unheard", "orders that no agent has acknowledged", host.book.unheard()),
        gauge("asv_position", "last event whose reactions are committed", host.reactions.position),
        gauge("asv_events_waiting", "events heard and not yet reacted to", len(host.reactions.inbox)),
        gauge("asv_streams", "streams held in memory", len(host.slots)),
        counter("asv_bugs_total", "mistakes of the service itself; each is in its log", counts.bugs),
    )
    return Figures(process, own, of_process())


def of_relay(process: str, position: int, published: int, failures: int) -> Figures:
    own = (
        counter("asv_relay_published_total", "events published", published),
        counter("asv_relay_failures_total", "times the bus did not take them", failures),
        gauge("asv_position", "last event whose reactions are committed", position),
    )
    return Figures(process, own, of_process())
