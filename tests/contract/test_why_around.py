"""`why` of events and tasks over the real services, both ways: causes to the request, effects in all streams; and of the past."""

from __future__ import annotations

import json
import re
from typing import Any

from services.gateway.auth import Role
from services.gateway.tokens import MemoryTokens, new_token
from tests.contract.test_cli_gateway import Ctl, api, ctl
from tests.contract.test_why import flat

__all__ = ["api", "ctl"]


async def positions(ctl: Ctl) -> dict[str, int]:
    """Of the first event of each type."""
    found: dict[str, int] = {}
    for line in (await ctl("events", "--json")).out.splitlines():
        event = json.loads(line)
        found.setdefault(event["type"], event["position"])
    return found


async def steps(ctl: Ctl, object: str, *words: str) -> list[dict[str, Any]]:
    return [step for story in (await ctl("why", object, *words, "--json")).json["stories"] for step in flat(story["steps"])]


async def test_an_event_is_told_with_what_led_to_it_and_all_that_came_of_it(ctl: Ctl) -> None:
    assert (await ctl("vm", "create", "web-1", "--memory", "128MiB", "--disk", "64MiB", "--wait")).code == 0
    at = await positions(ctl)
    placed = await steps(ctl, f"event/{at['vm_start_requested']}")
    kinds = [step["type"] for step in placed]
    assert kinds[0] == "vm_start_requested" and (placed[0]["actor"], placed[0]["cause"]) == ("user:root", 0), "the request"
    assert {"memory_reserved", "devices_granted", "vm_launch_requested", "vm_started"} <= set(kinds)
    assert {step["stream"] for step in placed} >= {"vm-web-1", "ledger-n1", "devices-web-1"}

    ledger = [step["type"] for step in await steps(ctl, f"event/{at['memory_reserved']}")]
    assert ledger[:3] == ["vm_start_requested", "memory_reserved", "vm_memory_noted"]
    assert "devices_granted" not in ledger, "that was not because of the ledger"

    seen = (await ctl("why", f"event/{at['vm_started']}")).out
    assert re.search(rf"»{at['vm_started']}  \+\d+\.\d\d s  vm-web-1: n1 saw generation 1 running", seen) and seen.count("»") == 1
    assert seen.count("by the policy spread-") == 1 and "(policy not recorded)" not in seen
    assert "(policy not recorded)" in (await ctl("why", f"event/{at['memory_reserved']}")).out


async def test_choices_come_with_policy_and_scores(ctl: Ctl) -> None:
    await ctl("vm", "create", "web-1", "--memory", "128MiB", "--wait")
    (placed,) = [step for step in await steps(ctl, "vm/web-1") if step["type"] == "vm_start_requested"]
    assert placed["policy"].startswith("spread-") and placed["policy"] in placed["sentence"]
    (best,) = placed["candidates"]
    assert best["node"] == "n1" and best["score"] > 0 and "memory_used" in best["terms"] and placed["rejected"] == []
    (reserved,) = [step for step in await steps(ctl, "vm/web-1") if step["type"] == "memory_reserved"]
    assert reserved["policy"] == "not recorded" and reserved["candidates"] == []
    assert (reserved["cause"], reserved["cause_told"]) == (placed["position"], True)


async def test_a_task_is_told_whole(ctl: Ctl) -> None:
    await ctl("vm", "create", "web-1", "--memory", "128MiB", "--wait")
    assert (await ctl("vm", "stop", "web-1", "--wait")).code == 0
    stop = (await ctl("task", "ls", "--json")).json[0]
    assert stop["kind"] == "stop"
    told = await steps(ctl, f"task/{stop['id']}")
    kinds = [step["type"] for step in told]
    assert kinds[0] == "vm_stop_requested" and {"vm_stopped", "memory_released"} <= set(kinds)
    assert "vm_started" not in kinds, "that was another task's"
    assert f"(task {stop['id']})" in (await ctl("why", f"task/{stop['id']}")).out


async def test_effects_elsewhere_are_told_where_they_are_asked_for(ctl: Ctl) -> None:
    await ctl("vm", "create", "web-1", "--memory", "128MiB", "--wait")
    await ctl("vm", "stop", "web-1", "--wait")
    own = {step["type"] for step in await steps(ctl, "vm/web-1")}
    both = {step["type"] for step in await steps(ctl, "vm/web-1", "--effects")}
    assert "memory_released" not in own and both >= own | {"memory_released"}


async def test_what_does_not_exist_is_said(ctl: Ctl, api: tuple[str, MemoryTokens]) -> None:
    await ctl("vm", "create", "web-1", "--memory", "128MiB", "--no-start")
    head = (await ctl("cluster", "status", "--json")).json["position"]
    for object, code, said in (
        (f"event/{head + 50}", 3, f"there is no event {head + 50}: the log holds events 1 to {head}"),
        ("event/0", 3, "there is no event 0"),
        ("event/-3", 2, "`-3` is no position of an event"),
        ("event/soon", 2, "`soon` is no position of an event"),
        ("task/none", 3, "there is no task `none`"),
        ("vm/none", 3, "there is no vm `none`"),
        ("pool/none", 3, "nothing is recorded of a pool `none`"),
        ("fence/n1", 3, "nothing is recorded of a fence `n1`"),
        ("event", 2, "is no object"),
    ):
        answer = await ctl("why", object)
        assert (answer.code, answer.out) == (code, "") and said in answer.err, (object, answer)
    for words, code, said in (
        (("vm/none", "--started"), 3, "there is no vm `none`"),
        (("vm/web-1", "--node", "n9"), 3, "there is no node `n9`"),
        (("event/1", "--started"), 2, "is no object"),
    ):
        answer = await ctl("why-not", *words)
        assert (answer.code, answer.out) == (code, "") and said in answer.err, (words, answer)
    row, token = new_token("eve", Role.VIEWER, ("other",), 0)
    await api[1].add(row)
    defined = (await positions(ctl))["vm_defined"]
    answer = await ctl("--token", token, "why", f"event/{defined}")
    assert (answer.code, answer.out) == (3, "") and f"no event {defined} that this token may see" in answer.err


async def test_of_the_past_only_what_was_by_then_is_told(ctl: Ctl) -> None:
    await ctl("vm", "create", "web-1", "--memory", "128MiB", "--no-start")
    await ctl("node", "cordon", "n1", "--wait")
    before = (await ctl("cluster", "status", "--json")).json["position"]
    assert (await ctl("vm", "start", "web-1")).code == 1
    await ctl("node", "uncordon", "n1", "--wait")
    refused_at = str((await ctl("cluster", "status", "--json")).json["position"])
    assert (await ctl("vm", "start", "web-1", "--wait")).code == 0
    at = await positions(ctl)

    then = await ctl("--at", str(before), "why-not", "vm/web-1", "--started")
    assert then.out.startswith("nobody has asked for a start") and f"as of position {before}" in then.err
    then = await ctl("--at", refused_at, "why-not", "vm/web-1", "--started")
    assert then.out.startswith("its start was refused: no node fits: cordoned: n1") and "uncordon n1" in then.out
    then = await ctl("--at", refused_at, "why-not", "vm/web-1", "--node", "n1")
    assert then.out.startswith("its last start was refused")
    assert (await ctl("why-not", "vm/web-1", "--started")).out.startswith("web-1 is running on n1")

    then = await ctl("--at", str(at["vm_start_requested"]), "why", "vm/web-1")
    assert "placed on n1" in then.out and "saw generation 1" not in then.out
    late = await ctl("--at", str(at["vm_start_requested"]), "why", f"event/{at['vm_started']}")
    assert late.code == 3 and f"there is no event {at['vm_started']}" in late.err
    early = await ctl("--at", str(at["vm_defined"] - 1), "why", "vm/web-1")
    assert early.code == 3 and "there is no vm `web-1`" in early.err


async def test_pools_have_stories_too(ctl: Ctl) -> None:
    assert (await ctl("pool", "set", "default", "--over", "2", "--wait")).code == 0
    text = (await ctl("why", "pool/default")).out
    assert "user:root" in text and "pool-default: " in text, text
    assert "pool-default" not in (await ctl("timeline", "pool/default")).out and (await ctl("timeline", "pool/default")).code == 0
