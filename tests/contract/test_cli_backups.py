"""asvctl's words for backups and recoveries: what they ask, what they show, and the page that can be printed."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from services.cli.backup import bytes_said
from services.cli.main import split
from services.cli.spans import ms, span
from tests.contract.canned_gateway import AT_US, HOSTILE, Canned
from tests.contract.cli_rig import Ctl

ONE = {
    "id": "b1-3", "vm": "web-1", "project": "default", "state": "taken", "kind": "incremental", "pool": "safe", "node": "n1",
    "asked_us": AT_US, "parent": "b1-1", "taken_us": AT_US, "guest_mib": 65_536, "bytes": 10 << 20, "consistency": "filesystem",
    "disks": [{"name": "disk0", "file": "web-1-disk0.b1-3.qcow2", "size_mib": 65_536, "bytes": 10 << 20, "sha256": "ab" * 32}],
    "freeze": "auto", "frozen_ms": 12, "took_ms": 340, "copied_mib": 11, "compress": False, "rate_mibps": 0, "verified_us": 0,
    "damaged": "", "damaged_us": 0, "unsound": "", "held_by": ["r1-7"], "description": HOSTILE, "note": "", "plan": "", "task": "t",
    "cancelled": False,
}  # fmt: skip
FAR = {"done_mib": 400, "all_mib": 1000, "percent": 40.0, "mibps": 120.5, "left_s": 5.0, "end_us": AT_US}
CATALOGUE = {
    "vm": "web-1", "exists": True, "newest": "b1-3",
    "failure": {"id": "b1-9", "project": "", "at_us": AT_US, "sentence": "no room"},
    "items": [
        {"backup": ONE, "progress": None},
        {"backup": ONE | {"id": "b1-5", "state": "taking", "taken_us": 0, "bytes": 0, "held_by": []}, "progress": FAR},
        {"backup": ONE | {"id": "b1-7", "unsound": "b1-3", "damaged": "cut short", "state": "damaged"}, "progress": None},
    ],
}  # fmt: skip
RECOVERY = {
    "id": "r1-7", "source": "web-1", "target": "web-2", "project": "default", "state": "copying", "backup": "b1-3",
    "taken_us": AT_US - 90_000_000, "requested_us": AT_US, "lost_from_us": AT_US, "rpo_s": 90.0, "disks": 1, "size_mib": 65_536,
    "wished": "n1", "pool": "fast", "start": True, "isolated": True, "lose": "", "node": "n1", "prepared_us": AT_US,
    "disks_us": AT_US, "placed_us": AT_US, "started_us": AT_US, "starts": 2, "independent_us": 0, "ended_us": 0, "first_ms": 850,
    "home_s": None, "sentence": "", "changed_us": AT_US, "actor": "user:ann", "task": "task-1", "curve": [], "risks": [],
    "grade": None,
}  # fmt: skip
ROW = {
    "vm": "web-1", "exists": False, "backups": 2, "grade": "late", "said": "it ran after 200 s <b>", "newest": "b1-3",
    "newest_us": AT_US, "exposed_s": 90_000.0, "recovery": "r1-7", "kind": "isolated", "target": "web-2", "state": "independent",
    "requested_us": AT_US, "first_ms": 200_000, "home_s": 725.0, "rpo_s": 3.5,
}  # fmt: skip
BARE = {
    "vm": "old", "exists": True, "backups": 0, "grade": "unprotected", "said": "", "newest": "", "newest_us": 0, "exposed_s": None,
    "recovery": "", "kind": "", "target": "", "state": "", "requested_us": 0, "first_ms": None, "home_s": None, "rpo_s": None,
}  # fmt: skip
REPORT = {"at_us": AT_US, "first_s_max": 180.0, "home_s_max": 900.0, "items": [BARE, ROW]}


@pytest.fixture(autouse=True)
def told(gateway: Canned) -> None:
    gateway.more = {
        "vms/web-1/backups": CATALOGUE, "vms/web-1/backups/b1-3": {"backup": ONE, "progress": None},
        "vms/web-1/backups/b1-5": CATALOGUE["items"][1], "recoveries": {"items": [{"recovery": RECOVERY, "progress": FAR}]},  # type: ignore[index]
        "recoveries/r1-7": {"recovery": RECOVERY, "progress": FAR},
        "recoveries/web-1.r1-7": {"recovery": RECOVERY, "progress": FAR},
        "recoveries/report": REPORT, "vms/old/backups": {"vm": "old", "exists": True, "items": [], "newest": "", "failure": None},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("backup ls web-1", ["b1-3", "incremental", "b1-1", "10 MiB", "64 GiB", "filesystem", "r1-7", "taking 40 %", "cut short"]),
        ("backup ls", ["VM", "web-1", "b1-3", "of no use: b1-3 beneath it is damaged"]),
        ("backup show web-1 b1-3", ["stands on", "b1-1", "stood still for 12 ms", "340 ms, 11 MiB read", "abababababab…", "r1-7"]),
        ("backup show web-1 b1-5", ["40 % (400 of 1000 MiB), 120.5 MiB/s, to be done at"]),
        ("recovery ls", ["r1-7", "web-2", "web-1", "b1-3", "copying 40 %", "850 ms", "1 min 30 s", "n1"]),
        ("recovery show r1-7", ["web-1.r1-7", "copying", "40 %", "1 min 30 s (from", "only on n1; disks in pool fast; no network"]),
        ("recovery report", ["web-1 (deleted)", "1 d 1 h", "r1-7 as web-2 (isolated, independent)", "3 min 20 s", "12 min 5 s"]),
    ],
)  # fmt: skip
def test_what_is_shown(ctl: Ctl, words: str, shown: list[str]) -> None:
    said = ctl(*words.split())
    assert said.code == 0, said.err
    for text in shown:
        assert text in said.out, text
    assert "\x1b" not in said.out
    assert ctl(*words.split(), "--json").json


def test_a_failure_that_holds_is_told_beside_the_list(ctl: Ctl) -> None:
    assert "web-1: b1-9 failed at" in ctl("backup", "ls", "web-1").err
    assert ctl("backup", "ls", "old").err == "old has no backups\n"


@pytest.mark.parametrize(
    ("words", "method", "path", "body"),
    [
        (
            "backup create web-1 --pool safe", "POST", "vms/web-1/backups",
            {"pool": "safe", "full": False, "freeze": "auto", "rate_mibps": 0, "compress": False, "description": ""},
        ),
        (
            "backup create web-1 --pool safe --full --no-freeze --rate 50 --compress --description x", "POST", "vms/web-1/backups",
            {"pool": "safe", "full": True, "freeze": "no", "rate_mibps": 50, "compress": True, "description": "x"},
        ),
        ("backup verify web-1 b1-3", "POST", "vms/web-1/backups/b1-3/verify", b""),
        ("backup cancel web-1 b1-3", "POST", "vms/web-1/backups/b1-3/cancel", b""),
        ("backup delete web-1 b1-3", "DELETE", "vms/web-1/backups/b1-3", b""),
        (
            "vm recover web-1", "POST", "vms/web-1/recover",
            {"at": "", "as": "", "node": "", "pool": "", "start": True, "isolated": False, "lose": "", "rate_mibps": 0},
        ),
        (
            "vm recover web-1 --backup b1-3 --as web-2 --node n1 --pool fast --no-start --isolated", "POST", "vms/web-1/recover",
            {
                "at": "", "as": "web-2", "node": "n1", "pool": "fast", "start": False, "isolated": True, "lose": "",
                "rate_mibps": 0, "backup": "b1-3",
            },
        ),
        (
            "vm recover web-1 --at -2h --lose web-1", "POST", "vms/web-1/recover",
            {"at": "-2h", "as": "", "node": "", "pool": "", "start": True, "isolated": False, "lose": "web-1", "rate_mibps": 0},
        ),
    ],
)  # fmt: skip
def test_each_asks_for_what_it_says(ctl: Ctl, gateway: Canned, words: str, method: str, path: str, body: Any) -> None:
    assert ctl(*words.split()).code == 0
    assert gateway.posted == [(method, path, {}, body)]


def test_the_moment_of_a_recovery_is_its_own(ctl: Ctl, gateway: Canned) -> None:
    """Everywhere else --at behind a command asks about the past."""
    assert split(["vm", "recover", "web-1", "--at", "-1h"], {}).given == {}
    assert split(["vm", "show", "web-1", "--at", "-1h"], {}).given == {"at": "-1h"}
    assert ctl("vm", "recover", "web-1", "--at", "2026-11-20 14:03").code == 0
    assert gateway.posted[0][3]["at"][:20] in ("2026-11-20T14:03:00+", "2026-11-20T14:03:00-")
    assert ctl("vm", "recover", "web-1", "--at", "-1h", "--backup", "b1-3").code == 2
    assert ctl("backup", "create", "web-1", "--pool", "p", "--no-freeze", "--require-freeze").code == 2
    assert ctl("backup", "create", "web-1").code == 2
    assert len(gateway.posted) == 1


def test_waiting_shows_the_true_states(ctl: Ctl, gateway: Canned) -> None:
    gateway.accepted = {"recovery": "r1-7", "target": "web-2"}
    said = ctl("vm", "recover", "web-1", "--as", "web-2", "--wait")
    assert said.code == 0
    first, second = said.err.splitlines()
    assert first.startswith("recover web-2 from web-1 (r1-7): placed on n1 [copying: 40 % (400 of 1000 MiB), 120.5 MiB/s")
    assert second.startswith("recover web-2 from web-1 (r1-7): 256 MiB reserved on n1 [copying")
    gateway.accepted, gateway.looks = {"backup": "b1-5"}, 0
    said = ctl("backup", "create", "web-1", "--pool", "safe", "--wait")
    assert said.err.splitlines()[0].startswith("back web-1 up as b1-5: placed on n1; 40 % (400 of 1000 MiB)")


class Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.rows: list[list[str]] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


def test_the_report_as_a_page(ctl: Ctl, gateway: Canned, tmp_path: Path) -> None:
    hostile = ROW | {"vm": "x", "said": "<script>alert(1)</script>" + HOSTILE}
    gateway.more["recoveries/report"] = REPORT | {"items": [BARE, ROW, hostile]}
    file = tmp_path / "report.html"
    said = ctl("recovery", "report", "--html", str(file))
    assert (said.code, said.out, said.err) == (0, "", f"{file}: 3 VMs\n")
    text = file.read_text()
    page = Page()
    page.feed(text)
    assert page.open == [] and "script" not in page.tags and "\x1b" not in text
    assert len(page.rows) == 4 and page.rows[0][0] == "Vm" and page.rows[1][0] == "old" and page.rows[1][10] == "unprotected"
    assert page.rows[2][5:12] == ["3 min 20 s", "–", "12 min 5 s", "3.5 s", "–", "late", "it ran after 200 s <b>"]
    assert "<script>" in page.rows[3][11] and "within 3 min of the order" in text and "2 late" in text
    assert json.loads(ctl("recovery", "report", "--html", str(file), "--json").out)["items"]


def test_a_page_that_cannot_be_written_says_so(ctl: Ctl, tmp_path: Path) -> None:
    said = ctl("recovery", "report", "--html", str(tmp_path / "none" / "report.html"))
    assert said.code == 2 and "cannot be written" in said.err


def test_why_of_a_backup(ctl: Ctl, gateway: Canned) -> None:
    gateway.more["why/backup/web-1/b1-3"] = {"object": "backup/web-1/b1-3", "stories": [], "older": 0, "unread": 0}
    gateway.more["why/backup/web-1"] = gateway.more["why/backup/web-1/b1-3"]
    assert ctl("why", "backup/web-1/b1-3").out == "nothing is recorded of backup/web-1/b1-3\n"
    assert ctl("why", "backup/web-1").code == 0


def test_spans_and_sizes() -> None:
    given = (0.0, 0.1234, 59.4, 60, 90, 3600, 3660, 90_000, 86_400 * 3)
    assert [span(s) for s in given] == [
        "0 s", "0.123 s", "59.4 s", "1 min", "1 min 30 s", "1 h", "1 h 1 min", "1 d 1 h", "3 d",
    ]  # fmt: skip
    assert (span(None), ms(None), ms(850), ms(2400), span(59.97)) == ("", "", "850 ms", "2.4 s", "60 s")
    assert [bytes_said(n) for n in (0, 1, 2048, 1 << 20, 3_500_000, 5 << 30)] == [
        "", "1 KiB", "2 KiB", "1 MiB", "3.338 MiB", "5 GiB",
    ]  # fmt: skip
