"""A watchdog that stands still alone: its agent notices, tells, starts nothing, and ends it, so that a successor goes on."""

from __future__ import annotations

from signal import SIGCONT, SIGKILL, SIGSTOP

import pytest

from libs.lease.times import FAST
from proto.lease import MUTE
from services.node.watchdog_care import BEAT_S, LATE_S, MUTE_BEATS, Hush
from tests.contract.test_leasing import Node, node, until

__all__ = ["node"]


async def test_it_is_told_of_and_ended_and_its_successor_guards_on(node: Node) -> None:
    cluster, rig = node.cluster, node.rig
    await cluster.order()
    await until(lambda: node.running and node.runner.leasing.state["guarded"] == 1, "it runs")  # type: ignore[union-attr]
    stood = rig.process
    assert stood is not None
    rig.signal(SIGSTOP)
    await until(lambda: cluster.beats[-1].own == MUTE, "its agent says that it is mute")
    assert cluster.beats[-1].left_us == 0
    await until(lambda: stood.poll() == -SIGKILL, "it is ended")
    await cluster.order(generation=2)
    await until(lambda: any(r.generation == 2 and r.sentence for r in cluster.reports), "nothing is started meanwhile")
    assert "watchdog" in next(r.sentence for r in cluster.reports if r.generation == 2)
    rig.start()
    rig.leave()
    await until(lambda: node.own == "held", "its successor holds the lease")
    await until(lambda: cluster.beats[-1].own == "held", "and says so")


async def test_a_pause_that_is_shorter_is_nobodys_business(node: Node) -> None:
    stood = node.rig.process
    assert stood is not None
    node.rig.signal(SIGSTOP)
    before = len(node.cluster.asked)
    await until(lambda: len(node.cluster.asked) > before + 1, "two seconds pass")
    node.rig.signal(SIGCONT)
    await until(lambda: node.own == "held", "it goes on")
    assert stood.poll() is None and not any(beat.own == MUTE for beat in node.cluster.beats)


def test_only_beats_in_which_something_could_be_heard_count() -> None:
    assert FAST.lease_us <= MUTE_BEATS * BEAT_S * 1e6, "before that it might keep its lease"
    hush, now_s = Hush(0.0), 0.0
    for _ in range(MUTE_BEATS - 1):
        now_s += BEAT_S
        assert not hush.beat(0, now_s)
    assert hush.beat(0, now_s + BEAT_S) and hush.beat(0, now_s + 2 * BEAT_S)
    assert not hush.beat(1, now_s + 3 * BEAT_S), "a word ends it"
    for _ in range(MUTE_BEATS * 2):
        now_s += 10 * LATE_S
        assert not hush.beat(1, now_s), "the agent stood still itself"


@pytest.mark.parametrize("beats", range(1, MUTE_BEATS))
def test_each_word_begins_the_count_anew(beats: int) -> None:
    hush, now_s = Hush(0.0), 0.0
    for words in range(1, 10):
        for _ in range(beats):
            now_s += BEAT_S
            assert not hush.beat(words, now_s)
