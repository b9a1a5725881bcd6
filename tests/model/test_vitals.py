"""Signs of life on a node: looks in, findings out; and no healthy guest, however it behaves, is ever taken for one that hangs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from proto.guard import Guard
from proto.vitals import Look, Screen, Sign, VitalsBeat, VmVitals
from services.ha import verdict_rule, verdict_views, verdicts
from services.ha.verdict_rule import own_words, two_signs
from services.node import vitals
from services.node.drivers.vitals import VitalCount
from services.node.host.threads import ThreadTime
from services.node.pictures import KEPT_MAX, Pictures
from services.node.vitals import Vitals
from tests.model.test_verdicts import World

S = 1_000_000
LOOK_S = 3


class Guest:
    """A guest and who looks at it. busy: what each vCPU runs, waits: what it waits for, in percent."""

    def __init__(self, vcpus: int = 1) -> None:
        self.vitals = Vitals()
        self.now_us = 1000 * S
        self.ran, self.waited = [0] * vcpus, [0] * vcpus
        self.busy, self.waits = [2.0] * vcpus, [0.0] * vcpus
        self.writes = 0.5
        self.marks = 0.0
        self.counted = True
        self.channel = self.answers = True
        self.status, self.began, self.ran_out = "running", 1, 0
        self.hold = ""
        self.screen = Look.OTHER

    def looks(self, s: float = LOOK_S, step_s: float = LOOK_S) -> Guest:
        end_us = self.now_us + round(s * S)
        while self.now_us < end_us:
            self.now_us += round(step_s * S)
            for n, (busy, waits) in enumerate(zip(self.busy, self.waits, strict=True)):
                self.ran[n] += round(busy * step_s * 1e7)
                self.waited[n] += round(waits * step_s * 1e7)
            self.marks += self.writes * step_s
            count = VitalCount(
                "web-1", 1, 7, self.status, channel=self.channel, marks=(int(self.marks),) if self.counted else (),
                counted=self.counted, ran_out=self.ran_out, began=self.began,
                vcpus=tuple(ThreadTime(n, r, w) for n, (r, w) in enumerate(zip(self.ran, self.waited, strict=True))),
            )  # fmt: skip
            asked = self.channel and self.status == "running"
            self.vitals.look(count, self.answers if asked else None, self.hold, self.now_us)
            if self.vitals.wants_screen("web-1", self.now_us):
                self.vitals.seen("web-1", Screen(look=self.screen), self.now_us)
        return self

    def hang(self) -> Guest:
        self.answers, self.writes, self.busy = False, 0.0, [100.0, *self.busy[1:]]
        return self

    @property
    def told(self) -> VmVitals | None:
        return next(iter(self.vitals.told(self.now_us)), None)

    @property
    def words(self) -> dict[Sign, str]:
        return {f.sign: f.word for f in self.told.findings} if self.told else {}

    @property
    def hangs(self) -> bool:
        return self.told is not None and not self.told.hold and two_signs(self.told.findings)


def test_a_guest_that_is_well_is_not_told_of() -> None:
    assert Guest().looks(300).told is None


def test_a_hang_has_its_signs_within_half_a_minute() -> None:
    guest = Guest(2).looks(60).hang()
    spent = 0
    while not guest.hangs:
        guest.looks()
        spent += LOOK_S
    assert 20 <= spent <= 30
    assert guest.words == {Sign.AGENT: "silent", Sign.IO: "still", Sign.CPU: "spins", Sign.SCREEN: "other"}


def test_one_whose_vcpus_stand_hangs_too() -> None:
    guest = Guest().looks(60).hang()
    guest.busy = [0.0]
    assert guest.looks(30).words[Sign.CPU] == "stands" and guest.hangs


def test_an_agent_that_was_stopped_is_no_sign() -> None:
    guest = Guest().looks(60)
    guest.channel = guest.answers = False
    guest.writes = 0
    assert guest.looks(600).told is None
    guest.busy = [100.0]
    assert guest.looks(600).told is None, "it computes"


def test_an_agent_that_answers_outweighs_all() -> None:
    guest = Guest().looks(60).hang()
    guest.looks(60).answers = True
    assert guest.hangs
    assert guest.looks().told is None


@pytest.mark.parametrize("change", [{"hold": "it is being changed (fit)"}, {"status": "paused"}, {"status": "no-space"}])
def test_what_holds_it_begins_all_anew(change: dict[str, Any]) -> None:
    guest = Guest().looks(60).hang().looks(15)
    for name, value in change.items():
        setattr(guest, name, value)
    assert not guest.looks(120).hangs
    guest.hold, guest.status = "", "running"
    assert not guest.looks(15).hangs
    assert guest.looks(15).hangs


def test_a_gap_is_no_silence() -> None:
    """The agent, or its host, stood still: what it did not hear nobody was silent about."""
    guest = Guest().looks(60).hang().looks(9)
    guest.looks(600, step_s=600)
    assert guest.told is None
    assert not guest.looks(15).hangs


def test_a_reset_and_a_new_process_begin_all_anew() -> None:
    guest = Guest().looks(60).hang().looks(30)
    guest.began += 1
    guest.looks()
    assert guest.told is None
    told = guest.looks(30).told
    assert told is not None and told.up_s <= 33, "the grace of its guard begins anew, too"


def test_a_host_that_gives_it_no_time_makes_no_hang() -> None:
    guest = Guest().looks(60).hang()
    guest.busy, guest.waits = [10.0], [90.0]
    assert guest.looks(300).words[Sign.CPU] == "starved" and not guest.hangs
    guest.busy, guest.waits = [40.0], [60.0]
    assert guest.looks(30).words[Sign.CPU] == "spins" and guest.hangs


def test_a_watchdog_is_told_until_the_guest_begins_anew() -> None:
    guest = Guest().looks(60)
    guest.ran_out, guest.channel = 1, False
    assert guest.looks().words[Sign.WATCHDOG] == "ran-out" and not guest.hangs
    guest.writes = 0
    assert guest.looks(30).hangs
    guest.ran_out, guest.began = 0, 2
    assert guest.looks(60).told is None


def test_a_screen_is_looked_at_only_where_all_else_is_silent() -> None:
    guest = Guest().looks(60)
    guest.channel, guest.screen = False, Look.PANIC
    guest.writes = 0
    assert guest.looks(60).told is None, "an idle guest's screen is nobody's business"
    guest.busy = [100.0]
    assert guest.looks(30).words[Sign.SCREEN] == "panic" and guest.hangs
    guest.writes = 5
    assert guest.looks(6).told is None, "it goes on: those words were somebody else's"


def test_a_guest_with_neither_disk_nor_nic_has_its_vcpus_alone() -> None:
    guest = Guest().looks(60)
    guest.counted = False
    guest.hang()
    assert not guest.looks(24).hangs and guest.looks(9).hangs
    idle = Guest().looks(60)
    idle.counted, idle.answers = False, False
    assert not idle.looks(600).hangs


# --- no false verdict ------------------------------------------------------------------------------------------


def healthy(random: Random, guest: Guest) -> Iterator[None]:
    """One way that a guest which is well behaves, drawn anew every now and then."""
    agent = random.random() < 0.7
    while True:
        guest.busy = [random.choice((0.0, 0.05, 2.0, 60.0, 100.0)) for _ in guest.busy]
        guest.waits = [min(100.0 - busy, random.choice((0.0, 5.0, 40.0))) for busy in guest.busy]
        starved = random.random() < 0.1  # its host gives it next to nothing
        if starved:
            guest.busy, guest.waits = [5.0] * len(guest.busy), [95.0] * len(guest.busy)
        guest.writes = random.choice((0.0, 0.0, 0.01, 0.4, 50.0))
        guest.counted = random.random() < 0.95
        guest.channel = agent and random.random() < 0.9  # it may be stopped, as on its way down
        guest.status = random.choice(("running",) * 8 + ("paused", "no-space"))
        guest.hold = random.choice(("",) * 8 + ("it is being changed (fit)", "its file systems stand still"))
        guest.began += random.random() < 0.05
        guest.screen = random.choice((Look.OTHER, Look.OTHER, Look.BLACK))
        stuck = guest.hold or any(waits > 90 for waits in guest.waits)
        guest.answers = not stuck and random.random() < 0.97
        if agent and not stuck and random.random() < 0.1:  # its agent is stuck: for long where it works on, else for some seconds
            guest.channel, guest.counted, guest.answers = True, True, True
            yield None
            guest.answers = False
            guest.writes = random.choice((5.0, 0.4, 0.0))
            guest.waits = [0.0] * len(guest.busy)
            for _ in range(random.choice((5, 12, 20)) if guest.writes else 1):
                yield None
            guest.answers = True
            yield None
            continue
        for step in range(random.choice((20, 60)) if starved else random.choice((1, 2, 5, 12))):
            if not stuck and not guest.answers:
                guest.answers = step > 1 or random.random() < 0.5  # an answer that was late, twice or three times
            yield None
        guest.answers = not stuck
        yield None


def an_hour(seed: int) -> str:
    """The first verdict on a guest that was well; "": there was none."""
    random = Random(seed)
    guest = Guest(random.choice((1, 2, 4)))
    world = World(Guard(grace_s=random.choice((0, 10, 120))))
    way = healthy(random, guest)
    for _ in range(1200):  # an hour
        next(way)
        guest.looks(step_s=random.choice((3, 3, 3, 3, 3, 3, 4, 9, 30)))
        world.now_us = guest.now_us
        beat = VitalsBeat("n1", "b", guest.now_us, 1, False, guest.vitals.told(guest.now_us))
        world.views.nodes.clear()
        world.hears(beat)
        if world.kinds:
            return str(world.events[0].sentence)
    return ""


@pytest.mark.parametrize("seed", range(40))
def test_no_healthy_guest_is_ever_found_dead(seed: int) -> None:
    assert an_hour(seed) == ""


@pytest.mark.parametrize("guard", ["one sign", "no sign of life", "no gap", "no hold"])
def test_without_any_one_guard_of_the_rule_some_are(guard: str, monkeypatch: pytest.MonkeyPatch) -> None:
    match guard:
        case "one sign":
            for module in (verdicts, verdict_views):
                monkeypatch.setattr(module, "two_signs", lambda findings: bool(own_words({f.sign: f for f in findings})))
        case "no sign of life":
            monkeypatch.setattr(verdict_rule, "lives", lambda said: False)
        case "no gap":
            monkeypatch.setattr(vitals, "GAP_US", 10**12)
            monkeypatch.setattr(vitals, "PINGS_MIN", 0)
        case "no hold":
            monkeypatch.setattr(vitals, "_anew", lambda pulse, count: None)
    assert any(an_hour(seed) for seed in range(40))


# --- pictures --------------------------------------------------------------------------------------------------


def test_the_last_few_pictures_of_a_vm_are_kept_and_nobody_elses_are_given(tmp_path: Path) -> None:
    pictures = Pictures(tmp_path / "pictures")
    digests = [pictures.keep("web-1", f"picture {n}".encode()) for n in range(KEPT_MAX + 2)]
    assert pictures.get("web-1", digests[-1]) == f"picture {KEPT_MAX + 1}".encode()
    assert pictures.get("web-1", digests[0]) is None and pictures.get("web-2", digests[-1]) is None
    assert pictures.keep("web-1", f"picture {KEPT_MAX + 1}".encode()) == digests[-1]
    for vm, digest in (("../web-1", digests[-1]), ("web-1", "../" + digests[-1]), ("web-1", "")):
        assert pictures.get(vm, digest) is None
    assert (tmp_path / "pictures").stat().st_mode & 0o077 == 0
    pictures.forget("web-1")
    assert pictures.get("web-1", digests[-1]) is None
