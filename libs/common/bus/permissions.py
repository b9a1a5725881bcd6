"""Who may say and hear what: a pure table, from which the server's permissions are made (identity.py) and by which the
in-memory bus checks.

    relay      publishes events, keeps the stream EVT; nobody else may do either
    service    its own cmd, fact and query subjects; commands to other services; orders; telemetry; reads events
    ha         as a service; what nodes ask for their leases, and asks of nodes about leases
    io         as a service; asks of guests in recovery drills
    gateway    commands, queries, asks and console of all; reads events
    node       facts, telemetry and lease of its own name, its own orders, asks and console; no JetStream, no other's inbox

Everyone's answers arrive under `_INBOX.<name>.`, which nobody else may hear. Control-plane identities may publish to all
inboxes, as they answer requests. An agent may only answer: the server lets it publish once to the reply subject of what it
was sent, for a limited time. (Services must not have that right: a service that may send to its own subject could name any
reply subject and so grant itself, say, `evt.`.)
"""

from __future__ import annotations

import msgspec

STREAM = "EVT"
EVENTS = "evt.>"
LIVE_FEEDS_MAX = 4
"""how many feeds without a durable name one identity may have open"""
ANSWER_S_MAX = 600
"""for how long an agent may answer what it was asked; longer than any ask lasts"""


class Grant(msgspec.Struct, frozen=True):
    """Subjects with NATS wildcards. Empty `publish` or `subscribe`: nothing. answers: may answer requests it has heard."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]
    answers: bool = False
    reads_events: bool = False

    def may_publish(self, subject: str) -> bool:
        return any(matches(pattern, subject) for pattern in self.publish)

    def may_subscribe(self, subject: str) -> bool:
        """Also for a subject with wildcards: allowed when all that it could match is."""
        return any(matches(pattern, subject) for pattern in self.subscribe)


SPECIAL = {
    "ha": Grant(publish=("ask.*.lease",), subscribe=("lease.*",)),
    "io": Grant(publish=("ask.*.exec", "ask.*.info"), subscribe=()),
}
"""what a service may beside what all services may"""


def matches(pattern: str, subject: str) -> bool:
    """NATS matching: `*` one token, `>` one or more at the end. A wildcard in `subject` is matched by a wider one only."""
    if pattern in {subject, ">"}:
        return True
    wanted, given = pattern.split("."), subject.split(".")
    for i, word in enumerate(wanted):
        if word == ">":
            return len(given) > i
        if i >= len(given) or (word != given[i] and (word != "*" or given[i] == ">")):
            return False
    return len(wanted) == len(given)


def inbox(name: str) -> str:
    """The prefix of an identity's private inbox."""
    return f"_INBOX.{name}"


def live_names(name: str) -> tuple[str, ...]:
    """The consumer names that an identity may use for feeds without a durable name."""
    return tuple(f"{name}-live-{i}" for i in range(LIVE_FEEDS_MAX))


def consumer(service: str, process: str) -> str:
    """By which name a process reads events for a service. Where several processes run one service they are called `ha-1`, `ha-2`,
    and each has a place of its own: two that shared one would take it from each other for ever."""
    own = process.removeprefix(f"{service}-")
    return process if own != process and own.isdigit() else service


def reads_events(*consumers: str) -> tuple[str, ...]:
    """The JetStream requests of a reader: its own consumers of EVT and nothing else. (Few and short: all of an identity's
    permissions travel in its JWT, in one line of the protocol.)"""
    requests: list[str] = []
    for consumer in consumers:
        requests += [
            f"$JS.API.CONSUMER.*.{STREAM}.{consumer}",  # CREATE, INFO, DELETE
            f"$JS.API.CONSUMER.MSG.NEXT.{STREAM}.{consumer}",
            f"$JS.ACK.{STREAM}.{consumer}.>",
        ]
    return tuple(requests)


def relay(name: str = "relay") -> Grant:
    return Grant(
        publish=(
            EVENTS,
            "_INBOX.>",
            *(f"$JS.API.STREAM.{verb}.{STREAM}" for verb in ("CREATE", "UPDATE", "INFO")),
            f"query.{name}.>",
        ),
        subscribe=(f"{inbox(name)}.>", f"query.{name}.>"),
    )


def service(name: str, process: str = "") -> Grant:
    """A service may send commands and orders to all: which ones it sends is its own rules' business. It reads events under
    its own name only."""
    more = SPECIAL.get(name, Grant((), ()))
    return Grant(
        publish=("cmd.>", "order.*", "query.>", "_INBOX.>", *reads_events(consumer(name, process)), *more.publish),
        subscribe=(f"cmd.{name}.>", f"fact.*.{name}", f"query.{name}.>", "tel.>", f"{inbox(name)}.>", *more.subscribe),
        reads_events=True,
    )


def gateway(name: str = "gateway") -> Grant:
    return Grant(
        publish=("cmd.>", "query.>", "ask.>", "console.*.*.in", "_INBOX.>", *reads_events(name, *live_names(name))),
        subscribe=("console.*.*.out", "tel.>", f"query.{name}.>", f"{inbox(name)}.>"),
        reads_events=True,
    )


def node(name: str) -> Grant:
    """`name` may be the server's template `{{name()}}`: then one grant serves all nodes."""
    return Grant(
        publish=(f"fact.{name}.>", f"tel.{name}.>", f"lease.{name}", f"console.{name}.*.out"),
        subscribe=(f"order.{name}", f"ask.{name}.>", f"console.{name}.*.in", f"{inbox(name)}.>"),
        answers=True,
    )


def host(name: str, services: tuple[str, ...]) -> Grant:
    """Several services (and the relay, when it is among them) in one process under one identity: the sum of their rights,
    and the inbox of `name`."""
    grants = [relay(one) if one == "relay" else service(one, name) for one in services]
    publish = {subject for grant in grants for subject in grant.publish}
    subscribe = {subject for grant in grants for subject in grant.subscribe} | {f"{inbox(name)}.>"}
    return Grant(publish=tuple(sorted(publish)), subscribe=tuple(sorted(subscribe)), reads_events=True)
