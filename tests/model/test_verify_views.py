"""Views in snapshots, held against the log: what telemetry and the clock fill is left out, all else is as it is folded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from libs.common.host import snapshots
from libs.common.host.core import Host
from libs.common.messages import Recorded
from libs.verify.states import Claim, States, of_snapshot
from libs.verify.views import Picture, differing
from libs.world.play import Outcome, play
from libs.world.story import Step, Story
from proto.upcasts import UPCASTS
from services.gateway.model import ReadModel
from tests.model.test_folding import SERVICES, STEPS


@pytest.fixture(scope="module")
def lived() -> Outcome:
    """With steps that leave something beside the log: a node that is fenced, VMs that are placed and never started."""
    more = (*STEPS, Step("power", 27.0, "n3", for_s=30.0))
    outcome = play(Story(seed=5, vms=6, seconds=45.0, peace_s=20.0, vitals=True, steps=more))
    assert not outcome.fault, outcome.fault
    return outcome


def claims(outcome: Outcome) -> list[Claim]:
    found = []
    for service in SERVICES:
        host = outcome.world.services[service.name].host
        assert host is not None
        taken = snapshots.take(host)
        assert taken is not None
        claim = of_snapshot(Host(service, dict(UPCASTS)), taken)
        assert claim is not None
        found.append(claim)
    return found


def log(outcome: Outcome) -> list[Recorded]:
    return outcome.world.log.read_all_now(0, 1_000_000)


def folded(records: Sequence[Recorded], said: Sequence[Claim]) -> list[tuple[str, str]]:
    states = States([Host(service, dict(UPCASTS)) for service in SERVICES], said)
    for at in range(0, len(records), 50):
        states.take(records[at : at + 50])
    states.finish()
    return [(fault.where, fault.what) for fault in states.faults]


def test_views_are_what_the_log_gives_but_for_what_is_not_of_it(lived: Outcome) -> None:
    said = claims(lived)
    heard: Any = {claim.service: claim.views for claim in said}
    assert all(node.heard_us for node in heard["compute"].nodes.values()), "telemetry is in them"
    assert folded(log(lived), said) == []


def test_views_that_the_log_does_not_give_are_named(lived: Outcome) -> None:
    said = claims(lived)
    views: Any = {claim.service: claim.views for claim in said}
    views["compute"].nodes["n1"].cordoned = not views["compute"].nodes["n1"].cordoned
    views["io"].vms.popitem()
    views["ha"].nodes.version += 1
    views["memory"].nodes["n2"].capacity_mib += 1
    found = dict(folded(log(lived), said))
    assert sorted(where.partition("'")[0] for where in found) == ["compute", "ha", "io", "memory"]
    text = " ".join(found.values())
    for path in ("views.nodes[n1].cordoned is", "views.vms[", "views.nodes.version is", "views.nodes[n2].capacity_mib is"):
        assert path in text


def test_what_the_gateway_shows_is_compared(lived: Outcome) -> None:
    records = log(lived)
    shown = ReadModel()
    for recorded in records[:200]:
        shown.apply(recorded)
    good, bad = (Picture("the gateway", 200, shown, ReadModel()) for _ in range(2))
    good.take(records)
    assert good.faults == []
    vm = next(iter(shown.vms.all))
    del shown.vms.all[vm]
    bad.take(records)
    assert [f"views.vms.all[{vm}]" in fault.what for fault in bad.faults] == [True]


def test_what_differs() -> None:
    assert list(differing({"a": 1, "b": [1]}, {"a": 1, "b": [2], "c": 0})) == ["views[c]", "views[b]"]
    assert list(differing({"a": 1}, {"a": True})) == ["views[a]"]
