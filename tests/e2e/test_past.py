"""A real failover, told afterwards: the chain from the lost node to the restart, and the states in between, by the real asvctl."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.chaos.rig import HaCluster
from tests.e2e.conftest import EmbeddedCluster, embedded
from tests.e2e.test_journeys import TINY

VM = "web-1"
CHAIN = ("node_lost", "vm_stopped", "vm_owed", "restart_wanted", "vm_start_requested")
"""each because of the one before"""


class Lost(NamedTuple):
    """A cluster that has lost a node. before: the log's position by then; node: where the VM was, to: where it is."""

    cluster: EmbeddedCluster
    node: str
    to: str
    before: int


@pytest.fixture(scope="module")
def lost() -> Iterator[Lost]:
    with embedded() as cluster:
        rig = HaCluster(home=cluster.home)
        cluster.ctl("vm", "create", VM, *TINY)
        node, before = str(cluster.json("vm", "show", VM)["node"]), int(cluster.json("cluster", "status")["position"])
        rig.power_off(node)

        def recovered() -> str:
            done = [e for e in rig.events(before) if e["type"] == "vm_recovered"]
            shown = cluster.json("vm", "show", VM)
            return str(shown["node"]) if done and shown["state"] == "running" and shown["node"] != node else ""

        yield Lost(cluster, node, cluster.until(recovered, f"{VM} to run elsewhere"), before)


def flat(steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [found for step in steps for found in (step, *flat(step["effects"]))]


def told(cluster: EmbeddedCluster, object: str) -> list[dict[str, Any]]:
    return [step for story in cluster.json("why", object)["stories"] for step in flat(story["steps"])]


@pytest.mark.timeout(300)
def test_the_chain_from_a_lost_node_to_the_restart_elsewhere(lost: Lost) -> None:
    cluster, node, to, before = lost
    (story,) = [s for s in cluster.json("why", f"vm/{VM}")["stories"] if "node_lost" in {x["type"] for x in flat(s["steps"])}]
    steps = [step for step in flat(story["steps"]) if step["position"] > before]
    by_type = {step["type"]: step for step in steps}
    assert story["asked_by"] == "service:ha" and steps[0]["type"] in ("node_suspected", "node_isolated")
    # where its record was last read late, it is isolated first: its other path is silent only then
    silent = by_type["node_suspected"]
    assert {line.split(":")[0] for line in silent["evidence"]} >= {"control", "storage"}, "by which paths it was silent"
    for cause, effect in itertools.pairwise(CHAIN):
        assert by_type[effect]["cause"] == by_type[cause]["position"] and by_type[effect]["cause_told"], effect
    proof = by_type["node_lost"]["evidence"]
    assert any(line.startswith("last granted ") for line in proof) and any(line.startswith("waited for ") for line in proof)
    assert any(line.startswith("pool default: record ") for line in proof), proof
    assert by_type["node_lost"]["policy"] == "not recorded"
    placed = by_type["vm_start_requested"]
    assert placed["policy"].startswith("spread-") and placed["candidates"][0]["node"] == to
    assert [c["score"] for c in placed["candidates"]] == sorted((c["score"] for c in placed["candidates"]), reverse=True)
    assert {(r["node"], r["filter"]) for r in placed["rejected"]} == {(node, "lost")}
    seen = by_type["vm_started"]
    assert (seen["actor"], seen["follows"]) == (f"node:{to}", by_type["vm_launch_requested"]["position"])
    assert by_type["vm_recovered"]["cause"] == seen["position"]

    text = cluster.ctl("why", f"event/{seen['position']}")
    words = (f"{node} is suspected", f"{node} is lost", "is proven", "it is to run again", "its turn had come", f"placed on {to}",
             f"{node}: removed by the filter lost", f"»{seen['position']}", "it runs again")  # fmt: skip
    assert [text.find(word) for word in words] == sorted(text.index(word) for word in words), text


@pytest.mark.timeout(300)
def test_why_it_is_not_where_it_was(lost: Lost) -> None:
    cluster, node, to, before = lost
    said = cluster.json("why-not", f"vm/{VM}", "--node", node)
    assert "had been declared lost" in said["sentence"] and said["evidence"] == [f"{node}: removed by the filter lost"]
    third = next(name for name in ("n1", "n2", "n3") if name not in (node, to))
    other = cluster.ctl("why-not", f"vm/{VM}", "--node", third)
    assert f"{third} would have done, as choice 2 of 2" in other and f"  {to}: score " in other and f"  {third}: score " in other
    owed = next(step["position"] for step in told(cluster, f"vm/{VM}") if step["type"] == "vm_owed")
    then = cluster.ctl("--at", str(owed), "why-not", f"vm/{VM}", "--started")
    assert then.startswith("it is to run, and is tried again")
    assert cluster.ctl("--at", str(before), "why-not", f"vm/{VM}", "--started").startswith(f"{VM} is running on {node}")


@pytest.mark.timeout(300)
def test_the_states_in_between_can_be_entered(lost: Lost) -> None:
    cluster, node, to, before = lost
    at = {step["type"]: step["position"] for step in told(cluster, f"vm/{VM}") if step["position"] > before}

    def then(position: int, *words: str) -> Any:
        return json.loads(cluster.ctl("--at", str(position), *words, "--json"))

    places = [(vm["state"], vm["node"]) for p in (before, at["vm_stopped"], at["vm_started"]) for vm in then(p, "vm", "ls")]
    assert places == [("running", node), ("stopped", places[1][1]), ("running", to)]
    online = [{n["name"]: n["online"] for n in then(p, "node", "ls")}[node] for p in (before, at["node_lost"])]
    assert online == [True, False]
    standing = {n["name"]: n["standing"] for n in then(at["node_lost"], "ha", "status")["nodes"]}
    assert standing[node] == "lost" and standing[to] == "trusted"
    assert then(at["node_lost"], "vm", "show", VM)["node"] == node
    assert then(before, "task", "ls")[0]["kind"] != "restart" and then(at["vm_started"], "task", "ls")[0]["kind"] == "restart"
    for words in (("network", "ls"), ("pool", "ls"), ("pool", "show", "default"), ("ha", "fence", "ls"), ("cluster", "status")):
        then(before, *words)
    changed = {c["object"]: c for c in cluster.json("diff", "--from", str(before))["changes"]}
    fields = {f["name"]: (f["before"], f["after"]) for f in changed[f"vm/{VM}"]["fields"]}
    assert fields["node"] == (node, to)
    assert ("trusted", "lost") in {(f["before"], f["after"]) for f in changed[f"node/{node}"]["fields"] if f["name"] == "standing"}
    assert any("is lost" in root["sentence"] for root in changed[f"node/{node}"]["because"])
    lines = cluster.ctl("timeline", f"vm/{VM}").splitlines()
    order = [next(n for n, line in enumerate(lines) if word in line) for word in (f"placed on {node}", "proven", f"placed on {to}")]
    assert order == sorted(order)


@pytest.mark.timeout(300)
def test_tools_of_the_past_are_told_of_the_reader(lost: Lost) -> None:
    record = json.loads((lost.cluster.home / "cluster.json").read_text())
    assert record["log"].startswith("postgresql://asv_reader@"), "what replay, verify, what-if and audit open"
    gateway = lost.cluster.pids()["gateway"]
    assert "ASV_READER_DSN=postgresql://asv_reader@" in Path(f"/proc/{gateway}/environ").read_text()
    assert "no difference" in lost.cluster.ctl("replay", "--service", "ha")
    assert lost.cluster.ctl("log", "verify")
