"""What people type and read: sizes, durations, NICs, times; and where asvctl finds its cluster."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer

from services.cli import machine, show, units, vm_clone
from services.cli.client import path
from services.cli.events import line, messages, speaks_of
from services.cli.failure import DENIED, NOT_FOUND, REFUSED, UNREACHABLE, USAGE, Failure, code_of
from services.cli.guest import stripped
from services.cli.main import split
from services.cli.where import Where, find, find_log


@pytest.mark.parametrize(
    ("text", "mib"),
    [
        ("256MiB", 256),
        ("1GiB", 1024),
        ("1.5g", 1536),
        ("2048", 2048),
        ("2 TiB", 2_097_152),
        ("2048KiB", 2),
        ("64m", 64),
    ],
)
def test_sizes(text: str, mib: int) -> None:
    assert units.mib(text) == mib


@pytest.mark.parametrize("text", ["", "much", "1GB", "0", "0.3MiB", "-1", "100KiB", "1PiB"])
def test_what_is_no_size_says_what_is(text: str) -> None:
    with pytest.raises(typer.BadParameter, match=r"MiB"):
        units.mib(text)


def test_durations_and_nics() -> None:
    assert [units.seconds(t) for t in ("0", "90", "90s", "15m", "12h", "30d")] == [0, 90, 90, 900, 43_200, 2_592_000]
    with pytest.raises(typer.BadParameter, match="write 90s"):
        units.seconds("soon")
    assert units.nic("user") == {"network": "user"}
    assert units.nic("blue,queues=4,model=virtio") == {"network": "blue", "queues": 4, "model": "virtio"}
    for wrong in ("bridge:br0", "Blue", "", "blue,queues=x", "blue,model=rtl8139", "blue,mtu=9"):
        with pytest.raises(typer.BadParameter, match="write NETWORK"):
            units.nic(wrong)


def test_disks_as_people_write_them() -> None:
    assert machine.disk("10GiB") == {"size_mib": 10240}
    assert machine.disk("image=tiny,bus=nvme") == {"image": "tiny", "bus": "nvme"}
    said = machine.disk("64,pool=local,iops=500,mibps-burst=20")
    assert said == {"size_mib": 64, "pool": "local", "limits": {"iops": 500, "mibps_burst": 20}}
    for wrong in ("64,slot=3", "64,iops=many", "64,bus=", "64,32"):
        with pytest.raises(typer.BadParameter, match="write a size, or KEY=VALUE with one of image, bus"):
            machine.disk(wrong)


def test_a_clone_has_its_sources_definition_and_nothing_that_makes_it_that_one() -> None:
    vm = {
        "name": "a", "uuid": "u", "vcpus": 2, "memory_mib": 512, "vcpus_max": 8, "priority": "normal", "firmware": "direct",
        "nics": [{"name": "nic0", "mac": "52:54:00:00:00:01", "network": "blue", "queues": 2, "slot": 2}], "node": "n1",
    }  # fmt: skip
    body = vm_clone.definition(vm, "b", [{"image": "b-disk0"}], start=True)
    assert body == {
        "name": "b", "vcpus": 2, "memory_mib": 512, "vcpus_max": 8, "priority": "normal", "disks": [{"image": "b-disk0"}],
        "nics": [{"network": "blue", "queues": 2}], "start": True,
    }  # fmt: skip
    assert vm_clone.definition({**vm, "firmware": "uefi"}, "b", [], start=False)["firmware"] == "uefi"


def test_parts_and_counts_for_people() -> None:
    assert [units.part(*x) for x in ((0, 1024), (None, 512), (256, 512), (0, 0))] == [
        "0 MiB of 1 GiB", "0 MiB of 512 MiB", "256 MiB of 512 MiB", "-",
    ]  # fmt: skip
    assert [units.count(n, "move") for n in (0, 1, 2)] == ["0 moves", "1 move", "2 moves"]


def test_each_entry_of_a_list_has_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    show.facts([("name", "n1"), ("not enforced", ["a (b, c)", "d"]), ("pools", [])])
    assert capsys.readouterr().out.splitlines() == ["name          n1", "not enforced  a (b, c)", "              d"]


def test_sizes_for_people() -> None:
    assert [units.size(n) for n in (0, None, 256, 1024, 1536, 2_097_152)] == [
        "-",
        "-",
        "256 MiB",
        "1 GiB",
        "1.5 GiB",
        "2 TiB",
    ]


@pytest.mark.parametrize(
    ("status", "code"),
    [(400, USAGE), (401, DENIED), (403, DENIED), (404, NOT_FOUND), (409, REFUSED), (413, REFUSED), (503, UNREACHABLE)],
)
def test_exit_codes_by_status(status: int, code: int) -> None:
    assert code_of(status) == code


def test_paths_are_quoted_and_zero_is_a_value() -> None:
    assert path("vms", "a/b", "start") == "/v1/vms/a%2Fb/start"
    assert path("events", after=0, follow=False) == "/v1/events?after=0"
    assert path("events", after=None, follow=True) == "/v1/events?follow=true"


def test_escapes_never_reach_a_terminal() -> None:
    hostile = "a\x1b[2Jb\x1b]0;pwned\x07c\x1bPq\x1b\\d\x9b31me\x00f\x1b(Bg\x08"
    assert show.clean(hostile) == "abcd31mefg"
    assert stripped(b"ok\x1b[31m red\r\nnext\ttab\xff\x1b]0;t") == "ok red\nnext\ttab�".encode()


def test_options_for_all_are_read_before_the_command() -> None:
    assert split(["--api", "vm", "--json", "node", "ls"], {}) == ("node", ["--json", "node", "ls"], {"api": "vm"})
    assert split(["--token=t=1", "vm", "exec", "a", "--", "--api"], {}) == (
        "vm",
        ["vm", "exec", "a", "--", "--api"],
        {"token": "t=1"},
    )
    for whole in (["--help"], ["--api"], ["frobnicate", "ls"], [], ["--json"], ["--apix", "vm"]):
        assert split(whole, {}) == ("", whole, {})
    assert split(["vm", "ls", "--at", "-10m", "--json"], {}) == ("vm", ["vm", "ls", "--json"], {"at": "-10m"})
    assert split(["--at=3", "vm", "--at=4", "ls"], {}) == ("vm", ["vm", "ls"], {"at": "4"})
    for own in (["what-if", "--at", "5"], ["vm", "exec", "a", "--at", "5"], ["vm", "ls", "--at"], ["vm", "x", "--", "--at", "5"]):
        assert split(own, {}) == (own[0], own, {})
    assert split(["vm"], {"_ASVCTL_COMPLETE": "complete_bash"}).only == ""


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """The environment of a machine with an embedded cluster."""
    (tmp_path / "token").write_text("local-token\n")
    record = {"api": "http://127.0.0.1:8123/", "token_file": str(tmp_path / "token")}
    (tmp_path / "cluster.json").write_text(json.dumps(record))
    return {"ASV_HOME": str(tmp_path)}


def test_the_local_cluster_is_found_by_itself(home: dict[str, str]) -> None:
    assert find(home) == Where("http://127.0.0.1:8123", "local-token")
    assert find(home | {"ASV_TOKEN": "mine"}).token == "mine"
    assert find(home | {"ASV_TOKEN": "mine"}, token="option").token == "option"


def test_the_local_log_is_found_by_itself(home: dict[str, str]) -> None:
    with pytest.raises(Failure, match="no log is known here"):
        find_log(home)
    (Path(home["ASV_HOME"]) / "cluster.json").write_text(json.dumps({"log": "postgresql://local"}))
    assert find_log(home) == "postgresql://local"
    assert find_log(home | {"ASV_LOG": "postgresql://told"}) == "postgresql://told"
    assert find_log(home | {"ASV_LOG": "postgresql://told"}, "postgresql://option") == "postgresql://option"


def test_a_cluster_file_without_api_is_understood_by_its_ports(tmp_path: Path) -> None:
    (tmp_path / "cluster.json").write_text(json.dumps({"ports": {"gateway": 8124}}))
    (tmp_path / "tokens").mkdir()
    (tmp_path / "tokens" / "admin.token").write_text("first")
    assert find({"ASV_HOME": str(tmp_path)}) == Where("http://127.0.0.1:8124", "first")


def test_the_local_token_goes_to_no_other_address(home: dict[str, str]) -> None:
    with pytest.raises(Failure) as caught:
        find(home, api="http://elsewhere:1")
    assert caught.value.code == DENIED
    assert find(home, api="http://elsewhere:1", token_needed=False).token == ""


def test_what_is_missing_is_said(tmp_path: Path, home: dict[str, str]) -> None:
    for environ, api, code, said in (
        ({"ASV_HOME": str(tmp_path / "none")}, "", UNREACHABLE, "no cluster is known here"),
        (home, "elsewhere:1", USAGE, "not an address"),
        (home | {"ASV_TOKEN_FILE": str(tmp_path / "none")}, "", DENIED, "cannot be read"),
    ):
        with pytest.raises(Failure, match=said) as caught:
            find(environ, api)
        assert caught.value.code == code
        assert caught.value.remedy


def test_server_sent_events_are_read_and_a_cut_is_told() -> None:
    lines = [
        ": from 7",
        "",
        "id: 8",
        "event: x",
        'data: {"a":',
        "data: 1}",
        "",
        ": still here",
        "",
        "id: 9",
        "data: nonsense",
        "",
    ]
    assert list(messages(iter(lines))) == [(7, None), (8, {"a": 1}), (None, None), (9, None)]
    with pytest.raises(Failure, match="too slow"):
        list(messages(iter(["event: cut", 'data: {"sentence": "too slow"}', ""])))


def test_a_line_per_event() -> None:
    event = {
        "position": 3,
        "at_us": 0,
        "stream": "vm-a",
        "type": "vm_started",
        "data": {"type": "x", "vm": "a", "node": "n\x1b[1m1", "pcpus": [0, 1]},
    }
    assert line(event) == "3  -  vm-a  vm_started  node=n1 pcpus=0,1"
    assert speaks_of(event, "a")
    assert speaks_of({"stream": "ledger-n1", "data": {"vm": "a"}}, "a")
    assert not speaks_of(event, "b")
