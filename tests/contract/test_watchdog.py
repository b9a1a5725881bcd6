"""The watchdog as it ships, with real processes: what it pauses and kills, when, and what it never does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from queue import Queue
from signal import SIGCONT, SIGSTOP, SIGTERM
from typing import Any

import pytest

from services.watchdog import sector
from services.watchdog.pool import Found, Known, Learnt, Pool, Sighted
from tests.contract.watchdog_rig import LEASE_US, MAIN, Rig, now_us, until

LONG_US = 3 * LEASE_US
"""where a test measures, on a machine that may be busy"""


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    one = Rig(tmp_path)
    try:
        yield one.start()
    finally:
        one.end()


def guarding(rig: Rig, **more: Any) -> int:
    """One VM under a lease. When the lease was asked for."""
    rig.held(**more)
    rig.vm()
    rig.guarded(1)
    return rig.grant(**more)


def test_silent_on_both_paths_it_is_paused_at_p_and_killed_before_l(rig: Rig) -> None:
    rig.held(pools=[], lease_us=LONG_US)
    rig.vm()
    rig.guarded(1)
    sent_us = rig.grant(pools=[], lease_us=LONG_US)
    until(rig.still, "it is paused")
    paused_us = now_us() - sent_us
    until(lambda: not rig.runs(), "it is killed")
    killed_us = now_us() - sent_us
    assert LONG_US * 3 // 5 <= paused_us < LONG_US * 4 // 5
    assert LONG_US * 4 // 5 <= killed_us < LONG_US
    until(lambda: rig.state_now()["clean"], "nothing is left")


def test_a_dead_agent_and_control_plane_keep_no_vm_from_running(rig: Rig) -> None:
    guarding(rig)
    rig.leave()
    end = time.monotonic() + 2 * LEASE_US / 1e6
    while time.monotonic() < end:
        assert rig.runs()
        assert not rig.still()
        time.sleep(0.02)
    rig.connect()
    assert rig.state_now()["own"] == "held"


def test_a_stalled_storage_keeps_no_vm_from_running_while_it_is_granted(rig: Rig) -> None:
    guarding(rig)
    rig.gone()
    end = time.monotonic() + 2 * LEASE_US / 1e6
    while time.monotonic() < end:
        rig.grant()
        assert rig.runs()
        assert not rig.still()
        time.sleep(0.2)


def test_storage_back_before_the_kill_it_learns_there_and_resumes(rig: Rig) -> None:
    guarding(rig, lease_us=2 * LEASE_US)
    rig.leave()
    rig.gone()
    until(rig.still, "it is paused")
    rig.back()
    until(lambda: not rig.still(), "it goes on")
    assert rig.runs()


def test_storage_back_and_the_generation_raised_meanwhile_it_is_killed(rig: Rig) -> None:
    guarding(rig, lease_us=2 * LEASE_US)
    rig.leave()
    rig.gone()
    until(rig.still, "it is paused")
    away = Rig.__new__(Rig)
    away.pool = rig.pool.with_name("away")
    away.lease("web-1", 4, "n2")
    rig.back()
    until(lambda: not rig.runs(), "it is killed")


def test_a_disk_that_hangs_holds_up_no_killing(rig: Rig) -> None:
    """A pipe that nobody reads: whoever opens it waits for ever."""
    rig.held(lease_us=LONG_US)
    rig.vm()
    rig.guarded(1)
    record = rig.pool / "ha" / "n1.record"
    until(record.exists, "the record is written")
    os.mkfifo(record.with_suffix(".fifo"))
    record.with_suffix(".fifo").replace(record)
    sent_us = rig.grant(lease_us=LONG_US)
    until(lambda: not rig.runs(), "it is killed")
    assert LONG_US * 4 // 5 <= now_us() - sent_us < LONG_US + 300_000  # the last write may have begun a little later


def test_a_frozen_node_that_is_asked_for_again_loses_nothing(rig: Rig) -> None:
    guarding(rig)
    rig.freeze()
    time.sleep(2 * LEASE_US / 1e6)
    rig.thaw()
    rig.answer("ask")
    assert rig.runs()
    rig.grant()
    learn = rig.answer("learn")
    assert learn["vms"] == {"web-1": 3}
    rig.say("learnt", number=learn["number"], raised=[])
    until(lambda: rig.state_now()["own"] == "held" and not rig.still(), "it goes on")
    assert rig.runs()


def test_a_frozen_node_that_learns_nothing_kills_and_its_storage_does_not_help(rig: Rig) -> None:
    guarding(rig)
    rig.freeze()
    time.sleep(2 * LEASE_US / 1e6)
    thawed = time.monotonic()
    rig.thaw()
    until(rig.still, "it is paused at once")
    assert time.monotonic() - thawed < 0.5
    until(lambda: not rig.runs(), "it is killed")
    assert rig.state_now()["own"] == "ended"


def test_a_frozen_watchdog_alone_pauses_when_it_wakes(rig: Rig) -> None:
    guarding(rig)
    rig.signal(SIGSTOP)
    time.sleep(1.5 * LEASE_US / 1e6)
    assert rig.runs()  # nobody could do it: then the disks' locks are what holds
    rig.signal(SIGCONT)
    until(rig.still, "it is paused")


def test_a_successor_goes_on_with_the_lease(rig: Rig) -> None:
    guarding(rig)
    until((rig.state / "watchdog" / "lease.json").exists, "it is kept")
    time.sleep(0.4)
    rig.kill()
    rig.start()
    assert rig.state_now()["own"] == "held"
    for _ in range(20):
        assert not rig.still()
        time.sleep(0.02)


def test_a_successor_that_comes_too_late_has_to_learn(rig: Rig) -> None:
    guarding(rig)
    time.sleep(0.4)
    rig.kill()
    time.sleep(1.5 * LEASE_US / 1e6)
    rig.start()
    until(rig.still, "it is paused at once", 0.5)
    rig.grant(refused="lost", lease_us=0)
    until(lambda: not rig.runs(), "it is killed")


def test_a_successor_lets_go_on_what_the_former_had_held(rig: Rig) -> None:
    """It died between the word that the lease is back, and the last process that it had stopped."""
    guarding(rig)
    kept = rig.state / "watchdog" / "lease.json"
    until(kept.exists, "it is kept")
    time.sleep(0.3)
    rig.kill()
    os.kill(rig.vms["web-1"].pid, SIGSTOP)
    long = {"renewed_us": now_us(), "lease_us": 30_000_000, "tolerant": True, "still": ["web-1"]}
    kept.write_text(json.dumps(json.loads(kept.read_text()) | long))
    rig.start()
    until(lambda: not rig.still(), "it goes on")


def test_a_number_alone_is_no_process(rig: Rig) -> None:
    rig.held(pools=[])
    rig.vm("other", start_ticks=1)
    rig.vm("elder", boot_id="another boot")
    rig.vm("local", protected=False)
    rig.vm()
    rig.guarded(1)
    until(lambda: not rig.runs(), "it is killed")
    time.sleep(0.3)
    assert [vm for vm in sorted(rig.vms) if rig.runs(vm)] == ["elder", "local", "other"]


def test_what_appears_after_the_end_is_killed(rig: Rig) -> None:
    rig.held(pools=[])
    until(lambda: rig.state_now()["own"] == "ended", "the lease has ended")
    rig.vm()
    until(lambda: not rig.runs(), "it is killed")
    rig.grant()
    rig.say("begin", id=7, vm="web-2", start=True)
    assert "holds no lease" in rig.answer("begin", 7)["why_not"]
    rig.grant(epoch=2)
    until(lambda: rig.state_now()["own"] == "held", "the next epoch has begun")
    rig.say("begin", id=9, vm="local", start=False)
    assert rig.answer("begin", 9)["why_not"] == ""
    rig.say("begin", id=8, vm="web-2", start=True)
    assert rig.answer("begin", 8)["why_not"] == ""


def test_what_a_dead_agent_had_begun_is_over(rig: Rig) -> None:
    rig.held(pools=[])
    rig.say("begin", id=8, vm="web-2", start=True)
    assert rig.answer("begin", 8)["why_not"] == ""
    rig.leave()
    rig.connect()
    until(lambda: rig.state_now()["clean"], "its lease has ended, and nothing of it is left")


def test_a_letter_is_answered_in_the_record_once_the_process_is_gone(tmp_path: Path, rig: Rig) -> None:
    guarding(rig)
    rig.vm("web-2", 1)
    rig.guarded(2)
    other = Rig(tmp_path, "n2", rig.pool)
    try:
        other.start().held()
        letter = {"node": "n1", "pools": ["5a5a5a5a"], "number": 1, "term": 1, "epoch": 1, "vms": ["web-1"]}
        other.say("letter", id=1, **letter)
        assert other.answer("letter", 1)["error"] == ""
        until(lambda: (found := rig.record()) and found.acknowledged == 1, "it is answered")
        assert not rig.runs()
        assert rig.runs("web-2")
        other.say("records", id=2, nodes=["n1", "n3"], pools=["5a5a5a5a"])
        one, two = other.answer("records", 2)["sightings"]
        assert (one["node"], one["acknowledged"], one["done"], one.get("error")) == ("n1", 1, ["web-1"], None)
        assert two == {"node": "n3", "pool": "5a5a5a5a"}
        until(lambda: any(s["node"] == "n1" for s in other.state_now()["sightings"]), "it is seen each beat")
    finally:
        other.end()


def test_peers_answer_one_another(tmp_path: Path, rig: Rig) -> None:
    other = Rig(tmp_path, "n2", rig.pool)
    try:
        other.start()
        dead = "127.0.0.1:9"
        rig.say("probe", id=1, addresses={"n2": other.state_now()["watch_at"], "n3": dead, "n4": "no address"})
        answered = rig.answer("probe", 1)["answered_ms"]
        assert 0 <= answered["n2"] < 1000
        assert answered["n3"] == answered["n4"] == -1
    finally:
        other.end()


def test_a_pool_without_direct_reads_proves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file system of this machine may take O_DIRECT: so it is said of this one that it does not."""
    monkeypatch.setattr(sector, "can_direct", lambda _: False)
    (tmp_path / "id").write_text("5a5a\n")
    (tmp_path / "ha").mkdir()
    found: Queue[Found] = Queue()
    pool = Pool("default", str(tmp_path), "n1", lambda _, what: found.put(what))
    pool.start()
    assert found.get(timeout=5) == Known("5a5a", direct=False)
    pool.errand(1, ("n2",))
    sighted = found.get(timeout=5)
    assert isinstance(sighted, Sighted)
    assert "O_DIRECT" in sighted.sightings[0]["error"]
    pool.learn(1, (("web-1", 3),))
    learnt = found.get(timeout=5)
    assert isinstance(learnt, Learnt)
    assert "O_DIRECT" in learnt.error


def test_nonsense_ends_the_line_and_nothing_else(rig: Rig) -> None:
    guarding(rig)
    for nonsense in (b"\xff\xfe\n", b'{"word":"grant","term":"x"}\n', b"[1]\n", b'{"word":"probe","id":1}\n'):
        assert rig.agent is not None
        rig.agent.sendall(nonsense)
        until(lambda: _closed(rig), "the line is closed")
        rig.connect()
    assert rig.state_now()["own"] == "held"
    assert rig.runs()


def _closed(rig: Rig) -> bool:
    assert rig.agent is not None
    try:
        return rig.agent.recv(65536) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


def test_told_to_end_it_stays_while_it_guards(rig: Rig) -> None:
    guarding(rig)
    rig.signal(SIGTERM)
    time.sleep(0.5)
    assert rig.process is not None
    assert rig.process.poll() is None
    rig.vms["web-1"].kill()
    rig.vms["web-1"].wait()
    assert rig.process.wait(5) == 0


def test_one_folder_has_one_watchdog(rig: Rig) -> None:
    environment = {"ASV_NODE": "n1", "ASV_STATE": str(rig.state), "ASV_POOLS": f"default={rig.pool}"}
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(MAIN)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 3
    assert "another watchdog of n1" in done.stderr
