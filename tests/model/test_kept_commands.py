"""Which commands are kept beside what they decided, and under which ids: facts and ticks too, once they decided something."""

from __future__ import annotations

import msgspec
import pytest

from libs.common.log.memory import KeptCommand
from libs.common.messages import Envelope, NodeId, decode_envelope, decode_meta, encode
from tests.model.test_service_stepper import NOW, Desk, envelope
from tests.toy import Expire, Raise, SeeRaised


def kept(desk: Desk, id: str) -> KeptCommand:
    return desk.log._commands[id]


def test_a_fact_that_decided_something_is_kept_with_its_inputs() -> None:
    desk = Desk()
    fact = SeeRaised(node=NodeId("n1"), counter="a", by=3)
    desk.fact("f", fact, "n1")
    (event,) = desk.events()
    id = decode_meta(event.meta).command
    row = kept(desk, f"fact:n1:{id}")
    assert row.answer.position == event.position == 1
    assert msgspec.msgpack.decode(decode_envelope(row.payload).data, type=SeeRaised) == fact


def test_a_fact_that_came_to_nothing_or_was_refused_is_not_kept() -> None:
    desk = Desk()
    desk.fact("f", SeeRaised(node=NodeId("n1"), counter="a", by=0), "n1")
    assert desk.replies["f"].status == "accepted"
    assert (desk.log._commands, desk.events()) == ({}, [])


def test_a_fact_that_comes_twice_is_decided_once() -> None:
    desk = Desk()
    data = envelope(SeeRaised(node=NodeId("n1"), counter="a", by=3), id="once", actor="node:n1")
    for ref in ("first", "second"):
        desk.do(desk.host.on_command(ref, data, NOW, node="n1"))
    assert len(desk.events()) == 1
    assert (desk.replies["first"].status, desk.replies["second"].status) == ("accepted", "accepted")
    assert desk.replies["second"].position == 1
    desk.fact("other", SeeRaised(node=NodeId("n1"), counter="a", by=1), "n1")
    assert desk.total("a") == 4, "the stream goes on"


def test_no_node_takes_the_id_of_another_command() -> None:
    desk = Desk()
    fact = SeeRaised(node=NodeId("n1"), counter="a", by=3)
    desk.do(desk.host.on_command("f", envelope(fact, id="task-1", actor="node:n1"), NOW, node="n1"))
    desk.do(desk.host.on_command("g", envelope(msgspec.structs.replace(fact, node=NodeId("n2")), id="task-1"), NOW, node="n2"))
    desk.say("c", Raise(counter="a"), id="task-1")
    assert len(desk.events()) == 3
    assert set(desk.log._commands) == {"fact:n1:task-1", "fact:n2:task-1", "task-1"}


@pytest.mark.parametrize("id", ["", "x" * 129, "line\nbreak", "naïve"])
def test_an_id_that_no_log_would_take_is_refused_where_it_comes_in(id: str) -> None:
    desk = Desk()
    fact = encode(Envelope(id=id, data=msgspec.Raw(encode(SeeRaised(node=NodeId("n1"), counter="a", by=3))), actor="node:n1"))
    desk.do(desk.host.on_command("f", fact, NOW, node="n1"))
    assert (desk.replies["f"].status, desk.events()) == ("invalid", [])
    assert "1 to 128 printable ASCII" in desk.replies["f"].remedy


def test_a_tick_that_decided_something_is_kept() -> None:
    desk = Desk()
    desk.say("c", Raise(counter="a", by=95))
    desk.do(desk.host.on_own([Expire(now_us=NOW, counter="a"), Expire(now_us=NOW, counter="b")], NOW, iter(["t-1", "t-2"])))
    assert kept(desk, "t-1").stream == "counter-a"
    assert "t-2" not in desk.log._commands, "it came to nothing"
