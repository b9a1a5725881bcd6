"""Backups and recoveries by asvctl over the real services and an agent with the simulated driver: what is asked, done and told."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from tests.contract.test_cli_gateway import Ctl, api, ctl

__all__ = ["api", "ctl"]

WAIT = ("--wait", "--timeout", "30")


async def done(ctl: Ctl, *words: str) -> str:
    said = await ctl(*words, *WAIT)
    assert said.code == 0, (words, said)
    return str(said.out)


async def backed_up(ctl: Ctl) -> list[dict[str, Any]]:
    """web-1 runs, with a full backup and one on it."""
    await done(ctl, "vm", "create", "web-1", "--memory", "128MiB", "--disk", "64MiB")
    for words in ("--description first", ""):
        await done(ctl, "backup", "create", "web-1", "--pool", "default", *words.split())
    found: list[dict[str, Any]] = [one["backup"] for one in (await ctl("backup", "ls", "web-1", "--json")).json["items"]]
    return found


async def independent(ctl: Ctl, id: str) -> dict[str, Any]:
    async with asyncio.timeout(30):
        while (found := (await ctl("recovery", "show", id, "--json")).json["recovery"])["state"] != "independent":
            assert found["state"] not in ("refused", "gone"), found
            await asyncio.sleep(0.05)
    one: dict[str, Any] = found
    return one


async def test_taken_read_again_and_deleted_with_what_is_told_of_it(ctl: Ctl) -> None:
    first, second = await backed_up(ctl)
    assert [(one["state"], one["description"], bool(one["taken_us"])) for one in (first, second)] == [
        ("taken", "first", True), ("taken", "", True),
    ]  # fmt: skip
    assert second["parent"] in ("", first["id"]) and first["pool"] == "default" and first["bytes"] > 0
    assert "is what was written" in await done(ctl, "backup", "verify", "web-1", second["id"])
    shown = (await ctl("backup", "show", "web-1", second["id"], "--json")).json["backup"]
    assert shown["verified_us"] > 0 and shown["held_by"] == []
    await done(ctl, "backup", "delete", "web-1", first["id"])
    (left,) = (await ctl("backup", "ls", "web-1", "--json")).json["items"]
    assert (left["backup"]["id"], left["backup"]["parent"], left["backup"]["kind"]) == (second["id"], "", "full")
    told = (await ctl("why", f"backup/web-1/{first['id']}")).out
    assert "was ordered to back 1 disk up" in told and "is taken" in told and f"the backup {first['id']} is gone" in told
    assert (await ctl("backup", "show", "web-1", first["id"])).code == 3


async def test_recovered_under_another_name_until_it_stands_on_its_own(ctl: Ctl, tmp_path: Path) -> None:
    _, second = await backed_up(ctl)
    said = await ctl("vm", "recover", "web-1", "--as", "web-2", *WAIT)
    assert said.code == 0, said
    assert said.out.startswith("web-2 runs on n1, on its backup"), said
    (id,) = [one["recovery"]["id"] for one in (await ctl("recovery", "ls", "--json")).json]
    one = await independent(ctl, id)
    assert (one["source"], one["target"], one["backup"], one["starts"]) == ("web-1", "web-2", second["id"], 1)
    steps = [one[key] for key in ("requested_us", "prepared_us", "disks_us", "placed_us", "started_us", "independent_us")]
    assert steps == sorted(steps) and steps[0] > 0 and one["first_ms"] == (one["started_us"] - one["requested_us"]) // 1000
    (row,) = [row for row in (await ctl("recovery", "report", "--json")).json["items"] if row["vm"] == "web-1"]
    assert (row["grade"], row["recovery"], row["target"]) == ("met", id, "web-2")
    told = (await ctl("why", "vm/web-2", "--last", "0")).out
    for text in ("web-2 is to be recovered from the backup", "it is there and stopped", "its disks are new files on the backup"):
        assert text in told, told
    assert told.index("is to be recovered") < told.index("its disks are new files") < told.index("placed on n1 as generation 1")
    assert [(await ctl("vm", "show", name, "--json")).json["state"] for name in ("web-1", "web-2")] == ["running", "running"]


async def test_waiting_until_it_stands_on_its_own(ctl: Ctl) -> None:
    await backed_up(ctl)
    said = await ctl("vm", "recover", "web-1", "--as", "web-2", "--no-start", "--wait-independent")
    assert said.code == 2 and "--no-start" in said.err, said
    said = await ctl("vm", "recover", "web-1", "--as", "web-2", "--wait-independent")
    assert said.code == 0 and said.out.startswith("web-2 stands on its own: it ran after"), said
    assert "copying: " in said.err and " of 64 MiB), " in said.err, "how far it is, as its node tells it"
    (one,) = (await ctl("recovery", "ls", "--json")).json
    assert one["recovery"]["state"] == "independent", "no sooner"
    said = await ctl("vm", "recover", "web-1", "--as", "web-2", "--wait-independent")
    assert said.code == 1 and "VM_KNOWN" in said.err, said
    said = await ctl("vm", "recover", "web-1", "--as", "web-3", "--wait-independent", "--timeout", "0.1")
    assert said.code != 0 and "web-3" in said.err, said


async def test_the_vm_itself_after_it_was_deleted_or_with_what_it_has_given_up(ctl: Ctl) -> None:
    first, _ = await backed_up(ctl)
    said = await ctl("vm", "recover", "web-1", "--lose", "web-1")
    assert said.code == 1 and "web-1" in said.err, said
    await done(ctl, "vm", "stop", "web-1", "--force")
    said = await ctl("vm", "recover", "web-1")
    assert said.code == 1 and "--lose web-1" in said.err, said
    await done(ctl, "vm", "recover", "web-1", "--backup", first["id"], "--lose", "web-1")
    (id,) = [one["recovery"]["id"] for one in (await ctl("recovery", "ls", "--json")).json]
    one = await independent(ctl, id)
    async with asyncio.timeout(30):
        while not (one := (await ctl("recovery", "show", id, "--json")).json["recovery"])["ended_us"]:
            await asyncio.sleep(0.05)
    assert one["grade"]["met"] and one["grade"]["first_ms"] == one["first_ms"] and one["grade"]["home_s"] == one["home_s"], one
    assert "met: ran after" in (await ctl("recovery", "show", id)).out and one["risks"] == []
    assert one["lost_from_us"] < one["requested_us"] and one["lose"] == "web-1"
    await done(ctl, "vm", "stop", "web-1", "--force")
    await done(ctl, "vm", "delete", "web-1")
    assert len((await ctl("backup", "ls", "web-1", "--json")).json["items"]) == 2
    await done(ctl, "vm", "recover", "web-1", "--no-start")
    vm = (await ctl("vm", "show", "web-1", "--json")).json
    assert vm["state"] == "stopped" and "part of its data is in the backup only" in vm["recovering"]
    await done(ctl, "vm", "start", "web-1")
    await independent(ctl, (await ctl("recovery", "ls", "--json")).json[-1]["recovery"]["id"])


async def test_what_is_refused_says_why(ctl: Ctl) -> None:
    first, _ = await backed_up(ctl)
    for words, reason in (
        ("backup create web-1 --pool none", "POOL_UNKNOWN"), ("vm recover web-1 --at 2001-01-01T00:00Z", "BACKUP_UNKNOWN"),
        ("vm recover web-1 --as web-1", "NOT_STOPPED"), (f"backup cancel web-1 {first['id']}", ""),
    ):  # fmt: skip
        said = await ctl(*words.split())
        assert said.code == 1 or not reason, (words, said)
        assert reason in said.err, (words, said)


async def test_one_that_finds_no_node_waits_and_goes_on_once_it_is_started(ctl: Ctl) -> None:
    await backed_up(ctl)
    await done(ctl, "node", "cordon", "n1", "--reason", "a fan")
    said = await ctl("vm", "recover", "web-1", "--as", "web-2", *WAIT)
    assert said.code == 1 and "web-2 is made, and waits for its start: " in said.err, said
    one = (await ctl("recovery", "ls", "--json")).json[0]["recovery"]
    assert (one["state"], one["placed_us"]) == ("waiting", 0) and one["sentence"] in said.err
    assert "recovery-waits" in (await ctl("alerts")).out
    (row,) = [row for row in (await ctl("recovery", "report", "--json")).json["items"] if row["vm"] == "web-1"]
    assert (row["recovery"], row["grade"], row["said"]) == (one["id"], "waits", one["sentence"])
    await done(ctl, "node", "uncordon", "n1")
    await done(ctl, "vm", "start", "web-2")
    assert (await independent(ctl, one["id"]))["first_ms"] > 0
    assert "recovery-waits" not in (await ctl("alerts")).out
