"""Waves by asvctl over the real services and an agent with the simulated driver: what is asked, done and told."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

from tests.contract.test_cli_gateway import Ctl, api, ctl
from tests.contract.test_cli_recovered import done, independent

__all__ = ["api", "ctl"]


async def three(ctl: Ctl) -> None:
    """web-1 and db-1 are stopped, mail-1 of another project is deleted; all have a backup."""
    for name, more in (("web-1", ""), ("db-1", "--priority critical"), ("mail-1", "--project other")):
        await done(ctl, "vm", "create", name, "--memory", "128MiB", "--disk", "64MiB", *more.split())
        await done(ctl, "backup", "create", name, "--pool", "default")
        await done(ctl, "vm", "stop", name, "--force")
    await done(ctl, "vm", "delete", "mail-1")


async def waves(ctl: Ctl) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await ctl("recovery", "waves", "--json")).json
    return found


async def test_many_by_one_order_with_what_is_told_of_it(ctl: Ctl) -> None:
    await three(ctl)
    words = ("recovery", "run", "web-1", "db-1", "mail-1", "--after", "db-1:mail-1", "--at-once", "1")
    said = await ctl(*words, "--dry-run", "--json")
    assert said.code == 0, said
    plan = said.json
    assert [step["vm"] for step in plan["steps"]] == ["mail-1", "db-1", "web-1"] and plan["lose"] == ["db-1", "web-1"]
    assert "normal, but db-1 (critical) comes after it" in plan["steps"][0]["reason"]
    shown = await ctl(*words, "--dry-run")
    assert shown.code == 0 and "mail-1" in shown.out and "--lose 2" in shown.err, shown
    said = await ctl(*words)
    assert said.code == 1 and "NOT_CONFIRMED" in said.err and await waves(ctl) == [], said
    assert "3 VMs recovered" in await done(ctl, *words, "--lose", "2", "--name", "night")
    (found,) = await waves(ctl)
    wave = found["wave"]
    assert (wave["name"], wave["state"], wave["recovered"], found["forecast"]) == ("night", "ended", 3, None)
    steps = wave["steps"]
    assert [(step["vm"], step["state"]) for step in steps] == [("mail-1", "running"), ("db-1", "running"), ("web-1", "running")]
    assert all(one["ran_us"] <= after["begun_us"] for one, after in pairwise(steps)), "one at once"
    assert wave["first_ms_max"] >= wave["first_ms_p50"] > 0 and wave["took_s"] > 0
    for step in steps:
        one = await independent(ctl, f"{step['vm']}.{step['recovery']}")
        assert one["first_ms"] == step["first_ms"], "as the recovery itself has it"
    projects = {name: (await ctl("vm", "show", name, "--json")).json["project"] for name in ("web-1", "mail-1")}
    assert projects == {"web-1": "default", "mail-1": "other"}, "a VM stays with its project, whoever recovers it"
    told = (await ctl("why", "vm/mail-1", "--last", "0")).out
    assert "the wave night recovers mail-1 from" in told and "1 of 3" in told, told
    told = (await ctl("why", "wave/night", "--last", "0")).out
    assert "3 VMs to be recovered, 1 at once, in this order: mail-1, db-1, web-1" in told, told
    assert "the wave night is over: 3 run; each after" in told, told
    assert "asvctl recovery waves" in (await ctl("why", "wave/day")).err
    page = await ctl("recovery", "wave", "night")
    assert page.code == 0 and "db-1" in page.out and "after mail-1" in page.out, page
    assert "night" in (await ctl("recovery", "waves")).out


async def test_what_needs_nothing_is_left_alone_and_what_cannot_be_is_told(ctl: Ctl) -> None:
    await three(ctl)
    await done(ctl, "vm", "create", "bare-1", "--memory", "128MiB", "--disk", "64MiB")
    await done(ctl, "vm", "stop", "bare-1", "--force")
    await done(ctl, "vm", "start", "web-1")
    plan = (await ctl("recovery", "run", "--all", "--dry-run", "--json")).json
    assert plan["steps"] == []
    assert {one["vm"]: one["well"] for one in plan["left"]} == {"bare-1": True, "db-1": True, "web-1": True}
    said = await ctl("recovery", "run", "--all")
    assert said.code == 1 and "NOTHING_TO_RECOVER" in said.err, said
    plan = (await ctl("recovery", "run", "bare-1", "db-1", "web-1", "mail-1", "--lose", "db-1", "--dry-run", "--json")).json
    assert {one["vm"]: one["sentence"] for one in plan["left"]} == {
        "bare-1": "it has no backup", "web-1": "it is running: stop it first",
    }  # fmt: skip
    assert [step["vm"] for step in plan["steps"]] == ["db-1", "mail-1"] and plan["refused"] == ""
    for words, code, reason in (
        ("", 2, "nobody is named"), ("nobody-1", 1, "NOT_DEFINED"), ("db-1 --after db-1", 2, "--after web:db"),
        ("db-1 web-1 mail-1 --after db-1:mail-1 --after mail-1:db-1", 1, "waits for"), ("--all --node n1", 2, "each say which"),
        ("db-1 --at 2001-01-01T00:00Z", 1, "of that time"),
    ):  # fmt: skip
        said = await ctl("recovery", "run", *words.split())
        assert said.code == code and reason in said.err, (words, said)
    assert (await ctl("recovery", "wave", "none")).code == 3 and (await ctl("recovery", "cancel", "none")).code == 3
    assert await waves(ctl) == []


async def test_a_wave_whose_vms_find_no_node_waits_for_none_of_them(ctl: Ctl) -> None:
    """Not for the three minutes that a start may take: each is told with its reason, and goes on by hand."""
    await three(ctl)
    await done(ctl, "node", "cordon", "n1", "--reason", "a fan")
    said = await ctl("recovery", "run", "db-1", "mail-1", "--lose", "1", "--at-once", "1", "--name", "night", "--wait")
    assert said.code == 1 and "0 VMs recovered" in said.err and "2 not" in said.err, said
    (found,) = await waves(ctl)
    assert (found["wave"]["state"], [step["state"] for step in found["wave"]["steps"]]) == ("ended", ["failed", "failed"])
    told = (await ctl("recovery", "wave", "night")).out
    assert told.count("no node fits") == 2 and "n1" in told, told
    assert (await ctl("recovery", "cancel", "night")).code == 0
    await done(ctl, "node", "uncordon", "n1")
    await done(ctl, "vm", "start", "db-1")
    shown = [one["recovery"] for one in (await ctl("recovery", "ls", "--json")).json]
    await independent(ctl, next(f"db-1.{one['id']}" for one in shown if one["target"] == "db-1"))
    tasks = [one for one in (await ctl("task", "ls", "--json")).json if one["kind"] == "recover-many"]
    assert [one["object"] for one in tasks] == ["night"]
    again = await ctl("recovery", "run", "mail-1", "--name", "night")
    assert again.code == 1 and "WAVE_KNOWN" in again.err, again


async def test_a_wave_that_is_cancelled_begins_nothing_more(ctl: Ctl) -> None:
    """The next begins once the data of the one before is home, which takes longer than this order."""
    await three(ctl)
    words = ("web-1", "db-1", "mail-1", "--lose", "2", "--at-once", "1", "--copying", "1", "--name", "night")
    said = await ctl("recovery", "run", *words)
    assert said.code == 0, said
    assert (await ctl("recovery", "cancel", "night")).code == 0
    async with asyncio.timeout(30):
        while not (wave := (await waves(ctl))[0]["wave"])["ended_us"]:
            await asyncio.sleep(0.05)
    assert wave["unbegun"] >= 1 and wave["steps"][-1]["state"] == "unbegun" and not wave["failed"], wave
