"""Recorded commands as an auditor reads them."""

from __future__ import annotations

import msgspec
import pytest

from libs.common.messages import Envelope, Reply, encode
from libs.verify import Answered
from libs.verify.audit import Act, Filter, act
from services.cli.audit import moment
from services.cli.failure import Failure


def answered(actor: str = "user:ops", status: str = "accepted", position: int = 7, origin: str = "10.0.0.9 token:t1") -> Answered:
    data = msgspec.Raw(encode({"type": "start_vm", "vm": "web-1"}))
    envelope = Envelope(id="c-1", data=data, actor=actor, project="blue", correlation="t-1", origin=origin)
    reply = Reply(status=status, reason="NO_ROOM" if status == "refused" else "", sentence="n1 has 3 GiB")
    return Answered(500, "c-1", "vm-web-1", position, encode(envelope), encode(reply))


def test_who_did_what_when_from_where_and_what_became_of_it() -> None:
    assert act(answered()) == Act(
        500, "user:ops", "10.0.0.9 token:t1", "start_vm", "vm-web-1", "blue", "done", "", "n1 has 3 GiB", 7, "c-1", "t-1"
    )


@pytest.mark.parametrize(
    ("status", "position", "outcome"), [("accepted", 7, "done"), ("accepted", 0, "nothing"), ("refused", 0, "refused")]
)
def test_what_became_of_it(status: str, position: int, outcome: str) -> None:
    assert act(answered(status=status, position=position)).outcome == outcome


def test_an_envelope_of_before_has_no_origin() -> None:
    old = {"id": "c-1", "data": {"type": "start_vm"}, "actor": "user:ops"}
    row = answered()._replace(payload=encode(old))
    assert act(row).from_ == ""


@pytest.mark.parametrize(
    ("wanted", "seen"),
    [
        (Filter(), {"user:ops", "user:eve"}),
        (Filter(actor="ops"), {"user:ops"}),
        (Filter(actor="service:compute"), {"service:compute"}),
        (Filter(actor="all"), {"user:ops", "user:eve", "service:compute"}),
        (Filter(object="vm/web-1"), {"user:ops", "user:eve"}),
        (Filter(object="vm-web-1", actor="eve"), {"user:eve"}),
        (Filter(object="vm/web"), set()),
        (Filter(until_us=499), set()),
    ],
)
def test_what_is_wanted(wanted: Filter, seen: set[str]) -> None:
    acts = [act(answered(actor)) for actor in ("user:ops", "user:eve", "service:compute")]
    assert {one.actor for one in acts if wanted.wants(one)} == seen


def test_times() -> None:
    assert moment("2h", 7_200_000_001) == 1
    assert moment("1970-01-02T00:00:00+00:00", 0) == 86_400_000_000
    with pytest.raises(Failure, match="is no time"):
        moment("soon", 0)
