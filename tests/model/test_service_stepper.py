"""The service host's stepper, by hand: what it answers, appends, decides again, and never does twice."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest

from libs.common.host.core import Host, state_bytes
from libs.common.host.effects import Answer, Append, Bug, Effect, ReadStream, SendOrder
from libs.common.host.service import Service
from libs.common.log import CommandRow, Group, NewEvent, Unit
from libs.common.log.memory import MemoryLog
from libs.common.messages import Command, Envelope, Hello, NodeId, Recorded, Reply, decode_meta, encode
from tests.toy import QUIET, TOY, Break, Expire, Raise, SeeRaised

NOW = 1_700_000_000_000_000
_ids = itertools.count()


def envelope(command: Command, id: str = "", actor: str = "user:ada", **more: Any) -> bytes:
    id = id or f"id-{next(_ids)}"
    return encode(Envelope(id=id, data=msgspec.Raw(encode(command)), actor=actor, **more))


class Desk:
    """A host, a log, and everything done at once, unless `hold` is set: then appends wait for `release`."""

    def __init__(self, service: Service = QUIET, log: MemoryLog | None = None) -> None:
        self.log = log or MemoryLog(lambda: NOW)
        self.replies: dict[object, Reply] = {}
        self.orders: list[SendOrder] = []
        self.bugs: list[Bug] = []
        self.held: list[Append] = []
        self.hold = False
        self.host = Host(service)
        reacted = self.log.consumer_position_now(service.name)
        self.host.fold(self.log.read_all_now(0, 10**6), reacted)
        self.do(self.host.ready(1, NOW))

    def do(self, effects: list[Effect]) -> Desk:
        for effect in effects:
            match effect:
                case Answer(ref, reply):
                    self.replies[ref] = reply
                case Append() if self.hold:
                    self.held.append(effect)
                case Append(token, group):
                    self.do(self.host.on_appended(token, self.log.append_now(group)))
                case ReadStream(stream, after):
                    self.do(self.host.on_stream_read(stream, self.log.read_stream_now(stream, after)))
                case SendOrder():
                    self.orders.append(effect)
                case Bug():
                    self.bugs.append(effect)
        return self

    def release(self) -> Desk:
        self.hold = False
        held, self.held = self.held, []
        return self.do(list(held))

    def say(self, ref: str, command: Command, **more: Any) -> Desk:
        return self.do(self.host.on_command(ref, envelope(command, **more), NOW))

    def fact(self, ref: str, command: Command, node: str) -> Desk:
        return self.do(self.host.on_command(ref, envelope(command, actor=f"node:{node}"), NOW, node=node))

    def hear(self) -> Desk:
        """Everything in the log that it has not heard yet."""
        after = self.host.reactions.next_position - 1
        return self.do(self.host.on_events(self.log.read_all_now(after, 10**6), NOW))

    def events(self) -> list[Recorded]:
        return self.log.read_all_now(0, 10**6)

    def total(self, counter: str) -> int:
        slot = self.host.slots.get(f"counter-{counter}")
        return 0 if slot is None else slot.state.total


def test_an_accepted_command_is_answered_with_its_place_in_the_log() -> None:
    desk = Desk().say("r", Raise(counter="a", by=2), id="one", project="p", owner="ada")
    assert desk.replies["r"] == Reply(status="accepted", stream="counter-a", version=2, position=1, task="one")
    meta = decode_meta(desk.events()[0].meta)
    assert (meta.command, meta.correlation, meta.actor, meta.project, meta.owner) == (
        "one",
        "one",
        "user:ada",
        "p",
        "ada",
    )


def test_a_refusal_is_recorded_with_its_command_and_writes_no_event() -> None:
    desk = Desk().say("r", Raise(counter="a", by=101), id="one")
    assert (desk.replies["r"].status, desk.replies["r"].reason) == ("refused", "TOO_HIGH")
    assert desk.replies["r"].remedy == "raise by less"
    assert desk.events() == []
    assert desk.log.command_now("one") is not None


def test_a_repeated_id_answers_the_same_in_memory_and_after_a_restart() -> None:
    desk = Desk().say("r1", Raise(counter="a"), id="one").say("r2", Raise(counter="a"), id="one")
    again = Desk(log=desk.log).say("r3", Raise(counter="a"), id="one")
    assert desk.replies["r1"] == desk.replies["r2"] == again.replies["r3"]
    assert again.total("a") == 1


def test_what_is_not_understood_is_answered_and_nothing_is_written() -> None:
    desk = Desk()
    wrong = [
        b"\xc1 not msgpack",
        encode({"id": "x"}),
        encode(Envelope(id="x", data=msgspec.Raw(encode({"type": "nonsense"})), actor="user:ada")),
        encode(
            Envelope(id="x", data=msgspec.Raw(encode({"type": "raise", "counter": "Not A Label"})), actor="user:ada")
        ),
        encode(
            Envelope(id="x", data=msgspec.Raw(encode({"type": "raise", "counter": "a", "more": 1})), actor="user:ada")
        ),
        encode(Envelope(id="x", data=msgspec.Raw(encode(Raise(counter="a"))))),
        envelope(Expire(counter="a", now_us=1)),
    ]
    for n, data in enumerate(wrong):
        desk.do(desk.host.on_command(n, data, NOW))
        assert desk.replies[n].status == "invalid" and desk.replies[n].sentence
    assert "nonsense" in desk.replies[2].sentence and "raise" in desk.replies[2].remedy
    assert desk.events() == [] and desk.log.command_now("x") is None


def test_a_command_on_another_streams_subject_is_invalid() -> None:
    desk = Desk()
    desk.do(desk.host.on_command("r", envelope(Raise(counter="a")), NOW, stream="counter-b"))
    assert desk.replies["r"].status == "invalid"


def test_facts_come_from_their_own_node_only_and_nodes_send_nothing_else() -> None:
    desk = Desk().fact("own", SeeRaised(node=NodeId("n1"), counter="a", by=3), "n1")
    desk.fact("other", SeeRaised(node=NodeId("n2"), counter="a", by=3), "n1")
    desk.say("nobody", SeeRaised(node=NodeId("n1"), counter="a", by=3))
    desk.fact("command", Raise(counter="a"), "n1")
    assert desk.replies["own"].status == "accepted"
    assert {desk.replies[r].status for r in ("other", "nobody", "command")} == {"invalid"}
    assert desk.total("a") == 3


def test_facts_and_ticks_that_decide_nothing_are_not_recorded() -> None:
    desk = Desk().fact("r", SeeRaised(node=NodeId("n1"), counter="a", by=0), "n1")
    assert desk.replies["r"].status == "accepted" and desk.events() == []


def test_what_the_process_itself_found_out_is_decided_at_once() -> None:
    desk = Desk()
    desk.do(desk.host.on_own([Raise(counter="a"), Raise(counter="a")], NOW, iter(["one", "two"])))
    assert desk.total("a") == 2


def test_one_append_per_stream_is_under_way_and_the_others_wait() -> None:
    desk = Desk()
    desk.hold = True
    desk.say("r1", Raise(counter="a")).say("r2", Raise(counter="a")).say("r3", Raise(counter="b"))
    assert [a.group.units[0].stream for a in desk.held] == ["counter-a", "counter-b"]
    assert desk.total("a") == 0  # memory changes after the commit
    desk.release()
    assert [desk.replies[r].version for r in ("r1", "r2", "r3")] == [1, 2, 1]


def other_writer(log: MemoryLog, stream: str, version: int) -> None:
    meta = desk_meta()
    event = NewEvent("raised", 1, encode({"type": "raised", "counter": stream.removeprefix("counter-"), "by": 1}), meta)
    log.append_now(Group((Unit(stream, version, (event,)),)))


def desk_meta() -> bytes:
    return encode(["c", "", "c", "user:else", 0])


def test_a_lost_race_is_decided_again_on_what_the_other_wrote() -> None:
    desk = Desk()
    other_writer(desk.log, "counter-a", 0)
    desk.say("r", Raise(counter="a", by=99))
    assert desk.replies["r"].status == "accepted" and desk.total("a") == 100
    other_writer(desk.log, "counter-b", 0)
    desk.say("s", Raise(counter="b", by=100))
    assert desk.replies["s"].reason == "TOO_HIGH"


def test_a_log_that_is_away_is_said_and_nothing_stays_behind() -> None:
    desk = Desk()
    desk.hold = True
    desk.say("r1", Raise(counter="a"), id="one").say("r2", Raise(counter="a"))
    token = desk.held.pop().token
    desk.hold = False
    desk.do(desk.host.on_append_failed(token, "disk full"))
    assert (desk.replies["r1"].status, desk.replies["r1"].sentence) == ("unavailable", "disk full")
    assert desk.replies["r2"].version == 1
    desk.say("r3", Raise(counter="a"), id="one")
    assert desk.replies["r3"].version == 2 and desk.host.idle()


def test_an_append_that_was_said_to_fail_may_have_been_committed() -> None:
    """Its event came by the bus while the append was under way: it is part of the state all the same."""
    desk = Desk()
    desk.hold = True
    desk.say("r", Raise(counter="a", by=5))
    append = desk.held.pop()
    desk.log.append_now(append.group)
    desk.hear()
    desk.hold = False
    desk.do(desk.host.on_append_failed(append.token, "the connection was lost"))
    assert desk.replies["r"].status == "unavailable"
    assert desk.total("a") == 5
    assert state_bytes(desk.host) == state_bytes(Desk(log=desk.log).host)


@pytest.mark.parametrize("fails", [True, False])
def test_what_another_wrote_while_an_append_was_under_way_is_not_passed_over(fails: bool) -> None:
    """Two processes of one service: the other's events are heard before this one's own append is settled."""
    desk = Desk()
    desk.hold = True
    desk.say("r", Raise(counter="a", by=5))
    append = desk.held.pop()
    if fails:
        other_writer(desk.log, "counter-a", 0)
        desk.hear()
        desk.hold = False
        desk.do(desk.host.on_append_failed(append.token, "away"))
    else:
        appended = desk.log.append_now(append.group)
        other_writer(desk.log, "counter-a", 5)
        desk.hear()
        desk.hold = False
        desk.do(desk.host.on_appended(append.token, appended))
    assert desk.total("a") == (1 if fails else 6)
    assert state_bytes(desk.host) == state_bytes(Desk(log=desk.log).host)


def test_what_another_wrote_while_reactions_were_under_way_is_not_passed_over() -> None:
    desk = Desk(TOY).say("r", Raise(counter="a", by=2))
    desk.hold = True
    desk.hear()
    append = desk.held.pop()
    other_writer(desk.log, "counter-all-echo", 0)
    desk.host.slots.fold(desk.events()[-1], desk.host.events.event(desk.events()[-1]))
    desk.do(desk.host.on_append_failed(append.token, "away"))
    assert desk.total("all-echo") == 1


def test_a_bug_in_a_decision_harms_nobody_else() -> None:
    desk = Desk().say("r", Break(counter="a")).say("s", Raise(counter="a"))
    assert desk.replies["r"].status == "unavailable" and "ZeroDivisionError" in desk.replies["r"].sentence
    assert isinstance(desk.bugs[0].error, ZeroDivisionError)
    assert desk.replies["s"].status == "accepted"


# --- reactions --------------------------------------------------------------------------------------------------------


def test_reactions_carry_the_story_and_move_the_position_in_the_same_append() -> None:
    desk = Desk(TOY).say("r", Raise(counter="a"), id="one", project="p").hear()
    echo = next(e for e in desk.events() if e.stream == "counter-a-echo")
    meta = decode_meta(echo.meta)
    assert (meta.causation, meta.correlation, meta.actor, meta.project) == ("1-1", "one", "service:toy", "p")
    assert desk.log.consumer_position_now("toy") >= 1
    assert (desk.total("a-echo"), desk.total("all-echo")) == (1, 1)


def test_reactions_are_made_once_however_often_events_are_heard_and_hosts_restart() -> None:
    desk = Desk(TOY).say("r", Raise(counter="a", by=5)).hear()
    desk.do(desk.host.on_events(desk.events(), NOW)).hear()
    for _ in range(3):
        desk = Desk(TOY, desk.log).hear().hear()
    assert (desk.total("a-echo"), desk.total("all-echo")) == (5, 5)


def test_a_crash_between_the_commit_and_its_being_heard_of_repeats_nothing() -> None:
    desk = Desk(TOY).say("r", Raise(counter="a", by=5))
    desk.hold = True
    desk.hear()
    for append in desk.held:
        desk.log.append_now(append.group)  # committed; the process dies before it hears of it
    fresh = Desk(TOY, desk.log).hear().hear()
    assert (fresh.total("a-echo"), fresh.total("all-echo")) == (5, 5)


def test_a_group_commits_its_longest_prefix_and_decides_the_rest_again() -> None:
    desk = Desk(TOY).say("r", Raise(counter="a", by=2))
    other_writer(desk.log, "counter-all-echo", 0)
    desk.hear().hear()
    assert (desk.total("a-echo"), desk.total("all-echo")) == (2, 3)
    assert desk.host.idle() and desk.host.reactions.position == len(desk.events())


def test_reactions_wait_for_a_stream_that_is_busy_and_the_position_with_them() -> None:
    desk = Desk(TOY).say("r", Raise(counter="a"))
    desk.hold = True
    desk.say("s", Raise(counter="a-echo"))
    desk.hear()
    assert len(desk.held) == 1 and desk.host.reactions.position == 0
    desk.release().hear()
    assert (desk.total("a-echo"), desk.total("all-echo")) == (2, 1)


def test_reactions_that_the_log_could_not_take_are_made_later() -> None:
    desk = Desk(TOY).say("r", Raise(counter="a"))
    desk.hold = True
    desk.hear()
    desk.do(desk.host.on_append_failed(desk.held.pop().token, "away"))
    desk.hold = False
    desk.do(desk.host.on_tick(NOW, iter(())))
    assert (desk.total("a-echo"), desk.total("all-echo")) == (1, 1)


def test_a_hole_in_the_events_is_an_error() -> None:
    desk = Desk(TOY).say("r", Raise(counter="a", by=3))
    with pytest.raises(ValueError, match="hole"):
        desk.host.on_events(desk.events()[1:], NOW)


# --- orders and restarts ----------------------------------------------------------------------------------------------


def test_orders_are_repeated_until_heard_and_again_after_a_hello() -> None:
    desk = Desk(TOY).say("r", Raise(counter="ordered"), id="one")
    assert [(o.node, o.version) for o in desk.orders] == [("n1", 1)]
    assert msgspec.msgpack.decode(desk.orders[0].data)["correlation"] == "one"
    desk.do(desk.host.on_tick(NOW + 1_500_000, iter(())))
    assert len(desk.orders) == 2
    desk.host.on_heard("counter-ordered", 1, "n1")
    desk.do(desk.host.on_tick(NOW + 60_000_000, iter(())))
    assert len(desk.orders) == 2
    desk.fact("h", Hello(node=NodeId("n1")), "n1")
    assert desk.replies["h"].status == "accepted" and len(desk.orders) == 3


def test_a_restarted_host_holds_the_same_state_and_gives_its_orders_again() -> None:
    desk = Desk(TOY).say("r", Raise(counter="ordered", by=7)).hear().hear()
    fresh = Desk(TOY, desk.log)
    assert state_bytes(fresh.host) == state_bytes(desk.host)
    assert [o.version for o in fresh.orders] == [7]


def test_a_command_row_holds_what_was_decided_on() -> None:
    desk = Desk()
    desk.hold = True
    desk.say("r", Raise(counter="a"), id="one")
    kept = desk.held[0].group.units[0].command or CommandRow("", b"", b"")
    payload = msgspec.msgpack.decode(kept.payload, type=Envelope)
    assert msgspec.msgpack.decode(payload.data)["counter"] == "a" and kept.id == "one"


def test_who_has_seen_more_of_the_log_is_decided_once_the_views_are_there() -> None:
    desk = Desk().say("r", Raise(counter="a", by=2)).say("s", Raise(counter="a"), seen=2)
    assert "s" not in desk.replies
    desk.hear()
    assert desk.replies["s"].version == 3
    desk.say("t", Raise(counter="a"), seen=99)
    desk.do(desk.host.on_tick(NOW + 4_000_000, iter(())))
    assert (desk.replies["t"].status, desk.replies["t"].reason) == ("unavailable", "BEHIND")
    assert desk.host.idle()
