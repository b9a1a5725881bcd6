"""asvctl against a server that speaks docs/api.md: every command, what it asks, what it shows, how it ends."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.contract.canned_gateway import Canned, Problem
from tests.contract.cli_rig import ANSWER_S_MAX, ROOT, Ctl


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (("vm", "ls"), ["NAME", "web-1", "running", "n1", "256 MiB", "10.0.2.15", "old", "stopped"]),
        (
            ("vm", "show", "web-1"),
            ["node", "n1", "pcpus", "0, 1", "10.0.2.15", "1 GiB", "placed on n1", "disk0", "on tiny", "52:54"],
        ),
        (("node", "ls"), ["n1", "online", "tcg", "256 MiB of 4 GiB"]),
        (("node", "show", "n1"), ["qemu 7.2.0", "not enforced", "cgroup", "0,1"]),
        (("node", "show", "n1"), ["lan, MTU 9000, by bond0 (bond, carries, 20000 Mb/s; eth0, eth1 lost)"]),
        (("network", "ls"), ["blue", "lan", "5", "1400", "n1"]),
        (("network", "show", "blue"), ["n2: no bridge lan", "their own MAC address only", "lost eth1", "web-1"]),
        (("nic", "ls", "web-1"), ["nic0", "blue", "lan.5", "virtio", "up"]),
        (("pool", "ls"), ["local", "9f12", "n1", "1000 MiB", "40 MiB", "1.465 GiB", "1.50"]),
        (("pool", "show", "local"), ["(1.50 times its size)", "at most 2 times", "5 %", "?", "2 disks of other", "900 MiB"]),
        (("alerts",), ["out-of-space", "vm/web-1", "stands still", "free space in pool local"]),
        (("ha", "verdicts"), ["web-1", "hang", "its guest hangs", "started again", "yes", "nothing: its guard is off"]),
        (("ha", "verdicts", "--vm", "web-1"), ["hang", "n1"]),
        (("image", "ls"), ["tiny", "ready", "32 MiB", "abababababab"]),
        (("task", "ls"), ["task-1", "start", "web-1", "running", "placed on n1"]),
        (("task", "show", "task-1"), ["start web-1", "running", "placed on n1"]),
        (("token", "ls"), ["t1", "ann", "viewer", "never"]),
        (("cluster", "status"), ["asv", "42", "compute: ok, io: does not run", "not enforced"]),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else "",
)
def test_tables_for_people_and_json_for_programs(
    ctl: Ctl, gateway: Canned, words: tuple[str, ...], shown: list[str]
) -> None:
    said = ctl(*words)
    assert said.code == 0, said.err
    for text in shown:
        assert text in said.out
    assert "\x1b" not in said.out, "what a guest wrote reached the terminal"
    assert ctl(*words, "--json").json, "--json behind the command"
    gateway.looks = 0
    assert ctl("--json", *words).json, "--json before the command"


def test_an_empty_list_is_a_sentence_on_stderr(ctl: Ctl, gateway: Canned) -> None:
    gateway.vms.clear()
    assert ctl("vm", "ls") == (0, "", "no VMs yet: `asvctl vm create --help`\n")
    assert ctl("vm", "ls", "--json").json == []


def test_create_says_what_was_asked_with_units_and_starts(ctl: Ctl, gateway: Canned) -> None:
    said = ctl(
        "vm", "create", "web-2", "--vcpus", "2", "--memory", "1.5GiB", "--image", "tiny", "--disk", "1GiB", "--disk", "512",
        "--nic", "user", "--nic", "blue,queues=2", "--priority", "critical", "--vcpus-max", "4", "--memory-max", "4GiB",
    )  # fmt: skip
    assert (said.code, said.out) == (0, "create web-2: accepted (task task-1)\n")
    body = {
        "name": "web-2", "vcpus": 2, "memory_mib": 1536, "image": "tiny", "disks": [{"size_mib": 1024}, {"size_mib": 512}],
        "nics": [{"network": "user"}, {"network": "blue", "queues": 2}], "priority": "critical", "start": True,
        "vcpus_max": 4, "memory_max_mib": 4096,
    }  # fmt: skip
    assert gateway.posted == [("POST", "vms", {}, body)]


def test_create_by_default(ctl: Ctl, gateway: Canned) -> None:
    assert ctl("vm", "create", "web-2", "--image", "tiny", "--no-start", "--no-nic").code == 0
    body = gateway.posted[0][3]
    assert (body["vcpus"], body["memory_mib"], body["nics"], body["disks"], body["start"]) == (1, 256, [], [], False)
    assert "vcpus_max" not in body


def test_wait_follows_the_true_steps_and_ends_with_the_vm(ctl: Ctl) -> None:
    said = ctl("vm", "create", "web-1", "--image", "tiny", "--wait")
    assert said.code == 0
    assert said.err.splitlines() == ["create web-1: placed on n1", "create web-1: 256 MiB reserved on n1"]
    assert "running" in said.out


def test_wait_ends_with_the_failure_of_the_task(ctl: Ctl, gateway: Canned) -> None:
    gateway.outcome = ("failed", "no node has 256 MiB left")
    said = ctl("vm", "start", "web-1", "--wait", "--json")
    assert said.code == 1
    assert json.loads(said.err.splitlines()[-1]) == {
        "task": "task-1", "reason": "TASK_FAILED", "detail": "no node has 256 MiB left", "exit_code": 1,
    }  # fmt: skip


def test_wait_is_bounded(ctl: Ctl, gateway: Canned) -> None:
    gateway.steps = ["placed on n1"] * 1000
    said = ctl("vm", "start", "web-1", "--wait", "--timeout", "0.3")
    assert said.code == 4
    assert "not over after 0.3 s; its last step: placed on n1" in said.err
    assert "asvctl task show task-1" in said.err


@pytest.mark.parametrize(
    ("words", "method", "path", "body"),
    [
        ("vm start web-1", "POST", "vms/web-1/start", b""),
        ("vm stop web-1", "POST", "vms/web-1/stop", {"deadline_s": 60}),
        ("vm stop web-1 --deadline 5m", "POST", "vms/web-1/stop", {"deadline_s": 300}),
        ("vm stop web-1 --force", "POST", "vms/web-1/stop", {"deadline_s": 0}),
        ("vm migrate web-1", "POST", "vms/web-1/migrate", {"node": "", "deadline_s": 600}),
        ("vm migrate web-1 --node n2 --deadline 1h", "POST", "vms/web-1/migrate", {"node": "n2", "deadline_s": 3600}),
        ("vm migrate web-1 --cancel", "POST", "vms/web-1/migrate/cancel", b""),
        ("vm reset web-1", "POST", "vms/web-1/reset", b""),
        ("vm pause web-1", "POST", "vms/web-1/pause", b""),
        ("vm resume web-1", "POST", "vms/web-1/resume", b""),
        ("vm set web-1 --cpu-weight 0", "POST", "vms/web-1/allotment", {"cpu_weight": 0}),
        (
            "vm set web-1 --priority critical --cpu-cap 50 --pin 0 --pin 3 --memory-reserved 1GiB", "POST",
            "vms/web-1/allotment",
            {"priority": "critical", "cpu_cap_pct": 50, "pins": [0, 3], "memory_reserved_mib": 1024},
        ),
        ("vm set web-1 --unpin", "POST", "vms/web-1/allotment", {"pins": []}),
        ("vm delete web-1", "DELETE", "vms/web-1", b""),
        ("node cordon n1 --reason disk", "POST", "nodes/n1/cordon", {"reason": "disk"}),
        ("node drain n1 --partial --reason disk", "POST", "nodes/n1/drain", {"partial": True, "reason": "disk"}),
        ("node drain n1", "POST", "nodes/n1/drain", {"partial": False, "reason": ""}),
        ("node uncordon n1", "POST", "nodes/n1/uncordon", b""),
        ("node remove n1", "DELETE", "nodes/n1", b""),
        ("image delete tiny", "DELETE", "images/tiny", b""),
        ("token revoke t1", "DELETE", "tokens/t1", b""),
        ("token join --expires 2h", "POST", "tokens/join", {"expires_s": 7200}),
    ],
)
def test_each_change_asks_for_what_it_says(
    ctl: Ctl, gateway: Canned, words: str, method: str, path: str, body: Any
) -> None:
    assert ctl(*words.split()).code == 0
    assert gateway.posted == [(method, path, {}, body)]


def test_a_node_may_be_removed_without_its_agent(ctl: Ctl, gateway: Canned) -> None:
    assert ctl("node", "remove", "n1", "--at-once").code == 0
    assert gateway.posted == [("DELETE", "nodes/n1", {"at_once": "true"}, b"")]


def test_a_schedule_shows_both_levels_and_why(ctl: Ctl, gateway: Canned) -> None:
    said = ctl("vm", "schedule", "web-1")
    assert said.code == 0
    for words in ("weight", "400", "20.0 %", "floats over pCPUs 0-1", "cpu0", "4242", "pCPUs 0,1"):
        assert words in said.out, words
    assert "not applied: cap: the kernel does not take it" in said.err
    assert json.loads(ctl("--json", "vm", "schedule", "web-1").out)["vcpus"][0]["thread"] == 4242
    assert ctl("vm", "set", "web-1").code == 2
    assert ctl("vm", "set", "web-1", "--pin", "1", "--unpin").code == 2
    assert gateway.posted == []


def test_an_unplug_that_is_pending_is_shown(ctl: Ctl, gateway: Canned) -> None:
    gateway.vms["web-1"] |= {
        "unplugging": [{"name": "disk1", "slot": 2, "since_us": 1_700_000_000_000_000, "pending": True, "sentence": "held"}],
        "drifts": [{"what": "nic", "name": "nic0", "sentence": "nic0 has its cable out", "slot": 1, "repaired": True}],
    }
    for disk in gateway.vms["web-1"]["disks"]:
        disk |= {"pool": "default", "serial": "s"}
    shown = ctl("vm", "show", "web-1").out
    assert "unplug pending" in shown and "disk1 since 2023-11-1" in shown and "when it restarts at the latest" in shown
    assert "otherwise than ordered  nic0 has its cable out (being set right)" in shown
    listed = ctl("disk", "ls", "web-1").out.splitlines()
    assert listed[0].endswith("STATE") and listed[2].split() == ["disk1", *["-"] * 6, "unplug", "pending"]
    assert [d["name"] for d in json.loads(ctl("disk", "ls", "web-1", "--json").out)] == ["disk0"]


def test_io_shows_devices_disks_and_nics_in_a_hundred_columns(ctl: Ctl, gateway: Canned) -> None:
    said = ctl("vm", "io", "web-1")
    assert said.code == 0 and gateway.io_looks == 2, "a first look has no rates: a second one follows"
    assert max(map(len, said.out.splitlines())) <= 100
    for words in ("virtio-blk-pci  paravirtual  0000:01:00.0", "1 of 256, 3 in flight", "e1000e", "emulated", "1.5 ms", "> 10 s"):
        assert words in said.out, words
    assert "not counted by this accelerator" in said.out and "mine: not of this VM" in said.err
    assert "\x1b" not in said.out + said.err
    shown = ctl("vm", "io", "web-1", "--histogram", "disk0").out
    assert "disk0 read: 10 since its start" in shown and "<= 100 us          8  " + "#" * 40 in shown
    assert json.loads(ctl("vm", "io", "web-1", "--json").out)["devices"][0]["name"] == "disk0"
    said = ctl("vm", "io", "web-1", "--histogram", "disk9")
    assert said.code == 3 and "it has disk0" in said.err
    assert ctl("vm", "io").code == 2
    models = ctl("vm", "io", "--models").out
    assert "virtio-blk-pci" in models and "choose" in models and "i6300esb" in models


def test_a_token_is_shown_once_on_stdout(ctl: Ctl, gateway: Canned) -> None:
    said = ctl("token", "create", "ann", "--role", "operator", "--project", "red", "--expires", "1d")
    assert said.out == "t2.secret\n"
    assert "not shown again" in said.err
    assert gateway.posted[0][3] == {"name": "ann", "role": "operator", "projects": ["red"], "expires_s": 86_400}


def test_an_image_is_sent_with_its_digest_and_its_format(ctl: Ctl, gateway: Canned, tmp_path: Path) -> None:
    data = b"QFI\xfb" + bytes(3 << 20)
    file = tmp_path / "an image.qcow2"
    file.write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    assert ctl("image", "import", "deb", "--file", str(file)).code == 0
    assert gateway.posted == [("POST", "images", {"name": "deb", "format": "qcow2", "sha256": digest}, data)]
    for name, kind in (("a.OVA", "ova"), ("a.vhd", "vhd"), ("a.img", "qcow2")):
        (tmp_path / name).write_bytes(data)
        said = ctl("image", "import", "deb", "--file", str(tmp_path / name), "--disk", "two")
        assert gateway.posted[-1][2] == {"name": "deb", "format": kind, "sha256": digest, "disk": "two"}
        assert f"{name} is taken for {kind}, by its" in said.err
    said = ctl("image", "import", "deb", "--file", str(file), "--sha256", "00")
    assert said.code == 2
    assert "digest" in said.err
    assert len(gateway.posted) == 4


def test_an_image_is_made_of_a_disk(ctl: Ctl, gateway: Canned) -> None:
    assert ctl("image", "create", "web", "--from-vm", "web-1").code == 0
    assert ctl("image", "create", "web", "--from-vm", "web-1", "--disk", "disk1", "--snapshot", "s1").code == 0
    asked = {"name": "web", "from_vm": "web-1"}
    both = [("POST", "images", asked, b""), ("POST", "images", asked | {"disk": "disk1", "snapshot": "s1"}, b"")]
    assert gateway.posted == both


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("vm", "show", "none"), 3, "there is no vm `none`"),
        (("--token", "viewer", "vm", "start", "web-1"), 5, "a viewer may not change anything [NOT_PERMITTED]"),
        (("--token", "wrong", "vm", "ls"), 5, "the token is not known"),
        (("--api", "http://127.0.0.1:1", "vm", "ls"), 4, "cannot be reached"),
        (("--api", "nonsense", "vm", "ls"), 2, "not an address"),
        (("vm", "create", "a", "--memory", "1GB"), 2, "is not a size"),
        (("vm", "frobnicate"), 2, "No such command"),
        (("frobnicate",), 2, "No such command"),
        (("vm", "ls", "--frobnicate"), 2, "No such option"),
        (("vm", "create", "a", "--nic", "user", "--no-nic"), 2, "exclude each other"),
        (("image", "import", "a", "--file", "/nonexistent"), 2, "does not exist"),
        (("cluster", "destroy"), 2, "--yes"),
        (("ha", "verdicts", "--picture", "screen.png"), 2, "--picture needs --vm"),
    ],
)
def test_each_kind_of_failure_has_its_exit_code(ctl: Ctl, words: tuple[str, ...], code: int, said: str) -> None:
    found = ctl(*words)
    assert found.code == code, found
    assert said in " ".join(found.err.replace("│", " ").split())
    assert found.out == ""


@pytest.mark.parametrize(("status", "code"), [(400, 2), (409, 1), (503, 4), (500, 4)])
def test_a_problem_is_passed_on_with_its_remedy(ctl: Ctl, gateway: Canned, status: int, code: int) -> None:
    gateway.fault = Problem(status, "BUSY", "web-1 is starting", "wait for its task")
    said = ctl("vm", "start", "web-1")
    assert (said.code, said.err) == (code, "asvctl: web-1 is starting [BUSY]\n  what would help: wait for its task\n")
    told = json.loads(ctl("vm", "start", "web-1", "--json").err)
    assert (told["reason"], told["remedy"], told["exit_code"]) == ("BUSY", "wait for its task", code)


def test_events_are_listed_page_by_page(ctl: Ctl) -> None:
    said = ctl("events")
    assert [text.split()[0] for text in said.out.splitlines()] == ["1", "2", "3"]
    assert "vm-web-1  vm_started  node=n1 generation=1" in said.out
    assert [json.loads(text)["position"] for text in ctl("events", "--json", "--after", "1").out.splitlines()] == [2, 3]
    assert [text.split()[0] for text in ctl("events", "--vm", "old").out.splitlines()] == ["2"]
    assert [text.split()[0] for text in ctl("events", "--last", "40").out.splitlines()] == ["3"], "the log ends at 42"
    assert ctl("events", "--last", "1", "--after", "1").code == 2


def test_followed_events_have_no_hole_when_the_connection_is_cut(ctl: Ctl, gateway: Canned) -> None:
    gateway.cuts = 2
    said = ctl("events", "--follow", "--after", "0", "--json")
    assert [json.loads(text)["position"] for text in said.out.splitlines()] == [1, 2, 3]
    assert said.code == 5, "the server revoked the token at the end"
    assert "trying again" in said.err


def test_this_machines_cluster_is_asked_of_its_own_program(ctl: Ctl) -> None:
    """ASV_HOME names a folder without a cluster: its program says so, and its exit code is ours."""
    for words, handed_on in (
        (("lab", "kill", "n2"), ("lab", "kill", "n2")),
        (("lab", "stall", "n2", "--for", "2m"), ("lab", "stall", "n2", "--for", "120")),
        (("cluster", "destroy", "--yes"), ("destroy", "--yes")),
    ):
        found = ctl(*words)
        direct = subprocess.run(
            [sys.executable, "-m", "services.cluster", *handed_on],
            env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, timeout=ANSWER_S_MAX, check=False,
        )  # fmt: skip
        assert (found.code, found.out, found.err) == (direct.returncode, direct.stdout.decode(), direct.stderr.decode())


def test_the_schema_page_is_named(ctl: Ctl, gateway: Canned) -> None:
    assert ctl("schema").out == f"{gateway.api}/schema\n"
