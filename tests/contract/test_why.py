"""`why` and `why-not` over the real services, relay and agent (simulated driver): every answer comes from the log."""

from __future__ import annotations

from typing import Any

from services.gateway.auth import Role
from services.gateway.tokens import MemoryTokens, new_token
from tests.contract.test_cli_gateway import Ctl, api, ctl

__all__ = ["api", "ctl"]


def flat(steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [found for step in steps for found in (step, *flat(step["effects"]))]


async def test_a_start_is_told_from_its_request_to_what_was_seen(ctl: Ctl) -> None:
    assert (await ctl("vm", "create", "web-1", "--memory", "128MiB", "--disk", "64MiB", "--wait")).code == 0
    found = (await ctl("why", "vm/web-1", "--json")).json
    (story,) = found["stories"]
    assert (story["asked_by"], found["older"]) == ("user:root", 0)
    steps = {step["type"]: step for step in flat(story["steps"])}
    placed = steps["vm_start_requested"]
    assert "placed on n1 as generation 1" in placed["sentence"]
    assert any(line.startswith("n1: score") and "memory" in line for line in placed["evidence"])
    # The ledger's word was caused by the placement, and the VM heard of it because of the ledger's word.
    (reserved,) = [step for step in placed["effects"] if step["type"] == "memory_reserved"]
    assert "n1's ledger reserved" in reserved["sentence"]
    assert reserved["effects"][0]["type"] == "vm_memory_noted"
    assert steps["vm_started"]["actor"] == "node:n1"

    text = (await ctl("why", "vm/web-1")).out
    assert text.index("user:root") < text.index("placed on n1") < text.index("saw generation 1 running")
    assert "[node:n1]" in text and "└─" in text
    assert "ordered to run generation 1" in text


async def test_the_newest_stories_are_told_and_the_others_counted(ctl: Ctl) -> None:
    await ctl("vm", "create", "web-1", "--memory", "128MiB", "--wait")
    for verb in ("stop", "start", "stop"):
        assert (await ctl("vm", verb, "web-1", "--wait")).code == 0
    text = (await ctl("why", "vm/web-1", "--last", "1")).out
    assert "(3 earlier stories)" in text and "saw its process end (ordered)" in text and "placed" not in text
    assert (await ctl("vm", "delete", "web-1", "--wait")).code == 0
    assert "deleted" in (await ctl("why", "vm/web-1")).out, "what is gone has its story still"


async def test_nodes_and_images_have_stories_too(ctl: Ctl) -> None:
    await ctl("node", "cordon", "n1", "--reason", "a fan is loud", "--wait")
    text = (await ctl("why", "node/n1")).out
    assert "its agent joined" in text and "cordoned: a fan is loud" in text
    assert (await ctl("why", "node/n9")).code == 3
    assert (await ctl("why", "vm/none")).code == 3
    assert (await ctl("why", "tea/cup")).code == 2
    assert (await ctl("why", "web-1")).code == 2


async def test_why_not_on_a_node(ctl: Ctl) -> None:
    await ctl("vm", "create", "web-1", "--memory", "128MiB", "--no-start")
    assert "no node was ever chosen" in (await ctl("why-not", "vm/web-1", "--node", "n1")).out
    assert (await ctl("vm", "start", "web-1", "--wait")).code == 0
    assert (await ctl("why-not", "vm/web-1", "--node", "n1")).out.startswith("web-1 is on n1")
    assert (await ctl("why-not", "vm/web-1", "--node", "n9")).code == 3
    assert (await ctl("why-not", "vm/web-1")).code == 2
    assert (await ctl("why-not", "vm/web-1", "--node", "n1", "--started")).code == 2


async def test_why_not_started(ctl: Ctl) -> None:
    await ctl("vm", "create", "web-1", "--memory", "128MiB", "--no-start")
    assert "nobody has asked" in (await ctl("why-not", "vm/web-1", "--started")).out
    await ctl("node", "cordon", "n1", "--wait")
    refused = await ctl("vm", "start", "web-1")
    assert refused.code == 1
    found = (await ctl("why-not", "vm/web-1", "--started", "--json")).json
    assert found["sentence"].startswith("its start was refused: no node fits: cordoned: n1")
    assert found["remedy"] == "uncordon n1" and found["at_us"] > 0
    assert (await ctl("why-not", "vm/web-1", "--node", "n1")).out.startswith("its last start was refused")

    await ctl("node", "uncordon", "n1", "--wait")
    assert (await ctl("vm", "start", "web-1", "--wait")).code == 0
    assert "web-1 is running on n1" in (await ctl("why-not", "vm/web-1", "--started")).out
    assert (await ctl("vm", "stop", "web-1", "--wait")).code == 0
    ended = (await ctl("why-not", "vm/web-1", "--started")).out
    assert "its process on n1 ended (ordered)" in ended and "what would change it: start web-1" in ended


async def test_a_viewer_of_another_project_is_told_nothing(ctl: Ctl, api: tuple[str, MemoryTokens]) -> None:
    await ctl("vm", "create", "web-1", "--memory", "128MiB", "--wait")
    row, token = new_token("eve", Role.VIEWER, ("other",), 0)
    await api[1].add(row)
    for words in (("why", "vm/web-1"), ("why-not", "vm/web-1", "--started")):
        said = await ctl("--token", token, *words)
        assert (said.code, said.out) == (3, "")
