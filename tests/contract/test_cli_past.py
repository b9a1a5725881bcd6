"""asvctl asks about the past: every read command takes --at, over the real services; what was never recorded, and what changes
something, says so. And what changed in between, and the life of an object."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from tests.contract.cli_rig import Said
from tests.contract.test_cli_gateway import Ctl, api, ctl

__all__ = ["api", "ctl"]

AGAIN = (
    "vm ls", "vm show web-1", "vm history web-1", "vm guard web-1", "node ls", "node show n1", "network ls", "network show blue",
    "pool ls", "pool show default", "task ls", "ha status", "ha fence ls", "ha verdicts", "cluster status", "cluster set",
    "disk ls web-1", "nic ls web-1", "cd ls web-1", "snapshot ls web-1", "image ls", "alerts", "events", "memory prove",
    "backup ls", "backup ls web-1", "recovery ls", "recovery report", "why vm/web-1", "why node/n1", "why network/blue",
    "why-not vm/web-1 --started", "timeline vm/web-1", "timeline node/n1",
)  # fmt: skip
NEVER_RECORDED = (
    "vm io web-1", "vm schedule web-1", "vm memory web-1", "vm translate web-1 --gva 0x1000", "memory ls", "memory show n1",
    "cluster balance", "token ls", "events --follow",
)  # fmt: skip
CHANGES = (
    "vm start web-1", "vm stop web-1", "vm delete web-1", "vm exec web-1 -- true", "node cordon n1", "network delete blue",
    "ha disarm --reason x", "backup create web-1 --pool default", "vm recover web-1",
)  # fmt: skip
BESIDE = (
    "vm console web-1", "schema", "log verify", "lab kill n1", "cluster destroy --yes", "replay --service compute", "audit",
)  # fmt: skip
"""ask no gateway about a moment: refused before anything is done"""


async def head(ctl: Ctl) -> int:
    return int((await ctl("cluster", "status", "--json")).json["position"])


async def life(ctl: Ctl) -> list[int]:
    """web-1 is made, started and stopped; n1 is cordoned; web-2 comes and goes; the position after each."""
    at = []
    for words in (
        "vm create web-1 --memory 128MiB --disk 64MiB --no-start",
        "network create blue --bridge lan --wait",
        "vm start web-1 --wait",
        "node cordon n1 --reason fan --wait",
        "vm stop web-1 --wait",
        "vm create web-2 --memory 64MiB --no-start",
        "vm delete web-2 --wait",
    ):
        said = await ctl(*words.split())
        assert said.code == 0, (words, said)
        at.append(await head(ctl))
    return at


async def test_every_command_that_reads_says_what_was_so(ctl: Ctl) -> None:
    assert (await ctl("network", "create", "blue", "--bridge", "lan", "--wait")).code == 0
    assert (await ctl("vm", "create", "web-1", "--memory", "128MiB", "--disk", "64MiB", "--wait")).code == 0
    then = str(await head(ctl))
    before = {words: (await ctl("--at", then, *words.split())) for words in AGAIN}
    for words, said in before.items():
        assert said.code == 0, (words, said)
        assert said.err.startswith(f"as of position {then}, ") and "UTC" in said.err.splitlines()[0], (words, said)
    await ctl("vm", "stop", "web-1", "--wait")
    await ctl("vm", "delete", "web-1", "--wait")
    await ctl("network", "delete", "blue", "--wait")
    await ctl("node", "cordon", "n1", "--wait")
    for words, said in before.items():
        again = await ctl("--at", then, *words.split())
        assert (again.code, again.out) == (0, said.out), words


async def test_states_are_those_of_then(ctl: Ctl) -> None:
    made, blue, started, cordoned, stopped, two, gone = await life(ctl)

    async def then(position: int, *words: str) -> Said:
        said = await ctl("--at", str(position), *words, "--json")
        assert said.code == 0, said
        return said

    vms = {at: {vm["name"]: vm["state"] for vm in (await then(at, "vm", "ls")).json} for at in (made, started, stopped, two, gone)}
    assert list(vms.values()) == [
        {"web-1": "stopped"}, {"web-1": "running"}, {"web-1": "stopped"}, {"web-1": "stopped", "web-2": "stopped"},
        {"web-1": "stopped"},
    ]  # fmt: skip
    assert (await then(started, "vm", "show", "web-1")).json["node"] == "n1"
    assert [n["cordoned"] for at in (started, cordoned) for n in (await then(at, "node", "ls")).json] == [False, True]
    assert [[n["name"] for n in (await then(at, "network", "ls")).json] for at in (made, blue)] == [[], ["blue"]]
    kinds = [task["kind"] for task in (await then(started, "task", "ls")).json]
    assert kinds[0] == "start" and "stop" not in kinds
    pool = (await then(started, "pool", "show", "default")).json[0]
    assert pool["name"] == "default", pool
    whole = (await then(started, "cluster", "status")).json
    assert (whole["position"], whole["vms_running"], whole["services"], whole["incarnation"]) == (started, 1, {}, 1)
    before = await ctl("--at", str(two), "vm", "show", "web-2")
    assert before.code == 0 and (await ctl("vm", "show", "web-2", "--at", str(two))).out == before.out, "before a command or behind"
    assert (await ctl("--at", str(gone), "vm", "show", "web-2")).code == 3


async def test_what_is_set_for_placement_is_that_of_then(ctl: Ctl) -> None:
    before = str(await head(ctl))
    assert (await ctl("cluster", "set", "placement=pack", "--wait")).code == 0
    after = str(await head(ctl))
    assert (await ctl("cluster", "set", "placement=spread", "--wait")).code == 0
    said = [(await ctl("--at", at, "cluster", "set")).out.split()[:2] for at in (before, after)]
    assert said == [["placement", "spread"], ["placement", "pack"]]


@pytest.mark.parametrize("words", NEVER_RECORDED)
async def test_what_was_never_recorded_is_refused(ctl: Ctl, words: str) -> None:
    await ctl("vm", "create", "web-1", "--memory", "128MiB", "--wait")
    said = await ctl("--at", str(await head(ctl)), *words.split())
    assert (said.code, said.out) == (1, "") and "[LIVE_ONLY]" in said.err and "what would help" in said.err, said


async def test_what_changes_something_is_refused_and_changes_nothing(ctl: Ctl) -> None:
    await ctl("network", "create", "blue", "--bridge", "lan", "--wait")
    await ctl("vm", "create", "web-1", "--memory", "128MiB", "--wait")
    at = await head(ctl)
    for words in CHANGES:
        said = await ctl("--at", str(at), *words.split())
        assert (said.code, said.out) == (2, "") and "[PAST_IS_OVER]" in said.err, (words, said)
    for words in BESIDE:
        said = await ctl("--at", str(at), *words.split())
        assert (said.code, said.out) == (2, "") and "takes no moment before the command" in said.err, (words, said)
    assert (await ctl("vm", "show", "web-1", "--json")).json["state"] == "running"
    assert not [e for e in (await ctl("events", "--json")).out.splitlines() if '"vm_stop_requested"' in e]


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("berlin")
async def test_moments_that_are_none_are_said_to_be(ctl: Ctl) -> None:
    at = await head(ctl)
    for moment, said in (
        ("yesterday", "`yesterday` is no moment of the past"),
        (str(at + 9), f"the log ends at position {at}; there is no {at + 9}"),
        ("0", "before position 1 there is nothing"),
        ("-5", "`-5` is no moment"),
        ("-30d", "lies before the first event"),
        ("2001-01-01", "2000-12-31 23:00:00 UTC lies before the first event"),
        ("2999-01-01 00:00", "is not past yet"),
        ("2020-13-01 00:00", "is no moment of the past"),
        ("0001-01-01T00:00:00+14:00", "lies before the first event"),
        ("9999-12-31T23:59:59-14:00", "is not past yet"),
        ("2020-10-25 02:30", "show that time twice (+0200 or +0100)"),
        ("2020-03-29 02:30", "skip that time"),
        ("2020-10-25 02:30+02:00", "2020-10-25 00:30:00 UTC lies before the first event"),
        ("9" * 30, "is no moment of the past"),
    ):
        answer = await ctl("--at", moment, "vm", "ls")
        assert (answer.code, answer.out) == (2, "") and said in answer.err, (moment, answer)
        assert "what would help" in answer.err
        between = await ctl("diff", "--from", moment)
        assert (between.code, between.out) == (2, "") and said in between.err, (moment, between)


@pytest.mark.usefixtures("berlin")
async def test_a_time_without_a_zone_is_the_terminals_and_that_is_said(ctl: Ctl) -> None:
    at = await head(ctl)
    last = json.loads((await ctl("events", "--json")).out.splitlines()[-1])
    written = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=last["at_us"])).astimezone()
    said = await ctl("--at", written.replace(tzinfo=None).isoformat(), "cluster", "status", "--json")
    assert said.json["position"] == at == last["position"]
    assert f"{written.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC (asked for: {written.isoformat()})" in said.err
    assert written.utcoffset()
    said = await ctl("--at", "-0s", "cluster", "status", "--json")
    assert said.json["position"] == at and "asked for" not in said.err


async def test_what_changed_by_whom_because_of_what(ctl: Ctl) -> None:
    made, _blue, started, _cordoned, _stopped, two, gone = await life(ctl)
    said = await ctl("diff", "--from", str(made), "--to", str(started))
    assert said.code == 0
    lines = said.out.splitlines()
    assert lines[0].startswith(f"from position {made} (") and f"to {started} (" in lines[0]
    assert "+ network/blue" in lines and "~ vm/web-1" in lines and "    state: stopped → running" in lines
    of_vm = lines[lines.index("~ vm/web-1") + 1 :]
    why = next(line for line in of_vm if line.startswith("    because:"))
    assert "user:root  start web-1: placed on n1" in why and "(event " in why, why
    whole = (await ctl("diff", "--from", str(two), "--to", str(gone), "--json")).json
    assert [(c["object"], c["what"]) for c in whole["changes"]] == [("vm/web-2", "removed")]
    assert whole["changes"][0]["because"][0]["asked_by"] == "user:root"
    assert "nothing changed" in (await ctl("diff", "--from", str(gone))).out
    back = await ctl("diff", "--from", str(gone), "--to", str(made))
    assert (back.code, back.out) == (2, "") and f"`from` is position {gone}, after `to`, which is {made}" in back.err
    assert (await ctl("--at", str(gone), "diff", "--from", str(made))).code == 2


async def test_a_life_line_by_line(ctl: Ctl) -> None:
    made, _blue, started, *_, gone = await life(ctl)
    said = await ctl("timeline", "vm/web-1")
    lines = said.out.splitlines()
    assert lines[0].split() == ["WHEN", "EVENT", "WHAT", "ASKED", "BY", "BECAUSE"]
    assert f"  {made}  " in lines[1] and "defined: 1 vCPU" in lines[1] and "user:root" in lines[1]
    assert any("saw generation 1 running" in line for line in lines) and any("saw its process end" in line for line in lines)
    then = (await ctl("--at", str(started), "timeline", "vm/web-1", "--json")).json
    assert max(item["position"] for item in then["items"]) <= started
    assert "deleted" in (await ctl("timeline", "vm/web-2", "--last", "1")).out
    assert (await ctl("timeline", "vm/none")).code == 3
    for object in ("event/1", "task/x", "web-1"):
        assert (await ctl("timeline", object)).code == 2
    assert gone > started
