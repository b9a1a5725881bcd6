"""asvctl takes files out of a backup, through gateway, io and an agent with the simulated driver: what comes, what is recorded."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest

from services.gateway.auth import Role
from services.gateway.tokens import MemoryTokens, new_token
from tests.contract.cli_rig import beside, here
from tests.contract.test_cli_gateway import Ctl, api, ctl

__all__ = ["api", "ctl"]


@pytest.fixture
async def saved(ctl: Ctl) -> str:
    """The backup of web-1, which runs."""
    assert (await ctl("vm", "create", "web-1", "--memory", "128MiB", "--disk", "8MiB", "--wait")).code == 0
    said = await ctl("backup", "create", "web-1", "--pool", "default", "--wait", "--json")
    assert said.code == 0, said
    return str((await ctl("backup", "ls", "web-1", "--json")).json["newest"])


async def test_files_are_listed_and_taken_and_it_is_seen_who_took_them(ctl: Ctl, saved: str, tmp_path: Path) -> None:
    parts = (await ctl("backup", "files", "ls", "web-1", "--json")).json
    assert (parts["backup"], [one["name"] for one in parts["items"]]) == (saved, ["disk0"])
    assert "/disk0" in (await ctl("backup", "files", "ls", "web-1", saved)).out
    said = await ctl("backup", "files", "ls", "web-1", saved, "/disk0")
    assert "-0644" in said.out and "written" in said.out

    target = tmp_path / "out"
    assert (await ctl("backup", "files", "get", "web-1", saved, "/disk0/written", "-o", str(target))).code == 0
    size = (await ctl("backup", "files", "ls", "web-1", saved, "/disk0", "--json")).json["items"][0]["bytes"]
    assert target.stat().st_size == size
    said = await ctl("backup", "files", "get", "web-1", "/disk0/written", "-o", str(target))
    assert said.code == 1 and "is there already" in said.err
    assert (await ctl("backup", "files", "get", "web-1", "/disk0/written", "-o", str(target), "--force")).code == 0

    shown = (await ctl("backup", "show", "web-1", saved, "--json")).json["reads"]
    taken = [one for one in shown if one["take"]]
    assert [(one["path"], one["by"], one["node"]) for one in taken[:1]] == [("/disk0/written", "user:root", "n1")]
    assert taken[0]["bytes"] == size and taken[0]["whole"] and taken[0]["ended_us"]
    assert "/disk0/written by user:root" in (await ctl("backup", "show", "web-1", saved)).out
    why = await ctl("why", f"backup/web-1/{saved}")
    assert "/disk0/written" in why.out and "is taken out, read by n1" in why.out and "went out" in why.out


async def test_what_is_read_is_not_deleted_meanwhile(ctl: Ctl, saved: str) -> None:
    assert (await ctl("backup", "files", "ls", "web-1", saved, "/disk0")).code == 0
    said = await ctl("backup", "delete", "web-1", saved)
    assert said.code == 1 and "BACKUP_IN_USE" in said.err and "at the latest" in said.err


@pytest.mark.parametrize(
    ("words", "code", "why"),
    [
        (("ls", "web-1", "b9-9"), 3, "no backup b9-9"), (("ls", "web-1", "disk0"), 2, "is no path"),
        (("ls", "web-1", "/a", "/b"), 2, "one is taken at a time"), (("ls", "none", "b1-1"), 3, "no vm"),
        (("get", "web-1"), 2, "which file"), (("get", "web-1", "/disk0/none"), 1, "no such file"),
        (("get", "web-1", "/disk0/../x"), 1, "names no file"), (("ls", "web-1", "/disk9"), 1, "has no"),
        (("get", "web-1", "/disk0/written", "-o", "/proc/none/x"), 2, "cannot be written"),
    ],
)  # fmt: skip
async def test_what_cannot_be_had_is_told_and_leaves_nothing(
    ctl: Ctl, saved: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], code: int, why: str
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    said = await ctl("backup", "files", *words)
    assert (said.code, said.out) == (code, "") and why in said.err, said
    assert list((tmp_path / "here").iterdir()) == []


async def test_who_may_only_look_at_the_cluster_takes_nothing(
    ctl: Ctl, saved: str, api: tuple[str, MemoryTokens], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    row, token = new_token("looks", Role.VIEWER, ("*",), 0)
    await api[1].add(row)
    viewer = beside(here(monkeypatch, capfd, tmp_path, api[0], token))
    for verb in ("ls", "get"):
        assert (await viewer("backup", "files", verb, "web-1", saved, "/disk0/written")).code == 5
    row, token = new_token("elsewhere", Role.ADMIN, ("other",), 0)
    await api[1].add(row)
    stranger = beside(here(monkeypatch, capfd, tmp_path, api[0], token))
    assert (await stranger("backup", "files", "ls", "web-1", saved)).code == 3


async def test_it_can_go_to_standard_output(ctl: Ctl, saved: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Out(io.StringIO):
        buffer: Any = io.BytesIO()

    monkeypatch.setattr(sys, "stdout", out := Out())
    await ctl("backup", "files", "get", "web-1", saved, "/disk0/written", "-o", "-")
    assert isinstance(out.buffer.getvalue(), bytes)
