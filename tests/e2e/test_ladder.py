"""A node whose VMs really run short of memory: the ladder takes from those that can spare it, critical ones lose nothing, nobody
is killed, and all of it is given back; one VM moves away where that does not do, or for a stricter policy; and all of it is told.
Real guests, a node of 2.25 GiB."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.conftest import EmbeddedCluster, embedded
from tests.e2e.test_journeys import boot_id, guest

NODE = "n2"
MEMORY_MIB = 2304
GREEDY = ("--image", "tiny", "--memory", "1GiB", "--disk", "1GiB", "--wait")
READ = """
(echo $$ >/tmp/reader; exec 3</dev/vdb
 while dd bs=1M count=4 of=/dev/null <&3 2>&1 | grep -q "4+0 records in"; do sleep 0.1; done
 exec sleep 1000) >/dev/null 2>&1 &
echo begun
"""
"""fills the guest's page cache with a disk of 1 GiB: memory that it can do without, as long as somebody has the disk open"""
FORGET = "killall sleep; echo forgotten"
FILL = """
mkdir -p /fill; mount -t tmpfs -o size=95% none /fill
left() { awk '/MemAvailable/ {print $2}' /proc/meminfo; }
(n=0; for step in "448512 4" "382976 1"; do set -- $step
 while [ $(left) -gt $1 ]; do n=$((n+1)); dd if=/dev/zero of=/fill/$n bs=1M count=$2 2>/dev/null; sleep 0.2; done
done) >/dev/null 2>&1 &
echo begun
"""
"""memory that the guest cannot do without: until 374 MiB are left to it, slowly at last, so that the need is predicted first"""


@pytest.fixture(scope="module")
def short() -> Iterator[EmbeddedCluster]:
    with embedded("--memory-mib", str(MEMORY_MIB)) as one:
        yield one


def ledger(cluster: EmbeddedCluster) -> dict[str, Any]:
    found: dict[str, Any] = cluster.json("memory", "show", NODE)
    return found


def taken(cluster: EmbeddedCluster) -> dict[str, dict[str, int]]:
    """What is taken from each VM of the node."""
    return {held["vm"]: held.get("taken") or {} for held in ledger(cluster)["held"]}


def node_of(cluster: EmbeddedCluster, vm: str) -> str:
    return str(cluster.json("vm", "show", vm)["node"])


def filled(cluster: EmbeddedCluster, vm: str) -> int:
    return int(guest(cluster, vm, "/bin/sh", "-c", "ls /fill | wc -l"))


def events(cluster: EmbeddedCluster, kind: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in cluster.ctl("events", "--json").splitlines()]
    return [event["data"] for event in found if event["type"] == kind]


def until_read(cluster: EmbeddedCluster, vm: str) -> None:
    """The reader sleeps at the end of the disk."""
    script = "test $(cat /proc/diskstats | awk '$3 == \"vdb\" {print $6}') -ge 2097152 && echo done || echo reading"
    cluster.until(lambda: guest(cluster, vm, "/bin/sh", "-c", script) == "done", f"{vm} to have read all")


@pytest.mark.timeout(420)
def test_a_short_node_takes_from_who_can_spare_it_and_gives_it_back(short: EmbeddedCluster) -> None:
    assert short.json("node", "show", NODE)["capabilities"]["memory_mib"] == MEMORY_MIB
    for node in ("n1", "n3"):
        short.ctl("node", "cordon", node, "--wait")
    short.ctl("vm", "create", "db", "--image", "tiny", "--memory", "256MiB", "--priority", "critical", "--wait")
    short.ctl("vm", "create", "lazy", *GREEDY)
    short.ctl("vm", "create", "batch", *GREEDY, "--priority", "best-effort")
    boots = {vm: boot_id(short, vm) for vm in ("db", "lazy", "batch")}
    for vm in ("lazy", "batch"):
        assert guest(short, vm, "/bin/sh", "-c", READ) == "begun"

    def ballooned() -> dict[str, dict[str, int]] | None:
        now = taken(short)
        return now if any("balloon" in rungs for rungs in now.values()) else None

    now = short.until(ballooned, "memory to be taken back")
    assert not now["db"], "critical"
    for vm in ("lazy", "batch"):  # all of the disk, one after the other, through what is left to it
        until_read(short, vm)
    short.until(lambda: ledger(short)["level"] in ("ample", "clear"), "the node to be out of need")
    for step in [step for climbed in events(short, "ladder_climbed") for step in climbed["steps"]]:
        assert step["vm"] != "db"
        if step["rung"] == "balloon":
            assert step["to_mib"] >= {"lazy": 512, "batch": 256}[step["vm"]], "never below what is reserved"
    assert {vm: boot_id(short, vm) for vm in boots} == boots

    for vm in ("lazy", "batch"):
        guest(short, vm, "/bin/sh", "-c", FORGET)
    short.until(lambda: not any(taken(short).values()), "all of it to be given back")
    assert events(short, "ladder_descended")
    assert short.json("memory", "prove")["holds"]

    told = short.ctl("why", "vm/lazy", "--last", "0")
    for words in ("n2 is short of memory", "of its minFree of 138", "taken by its balloon", "512 reserved", "given again"):
        assert words in told, told
    assert "is critical: all its 256 MiB are reserved" in short.ctl("why-not", "vm/db", "--reclaimed")
    assert "taken by its balloon" in short.ctl("why", "node/n2", "--last", "0")
    assert "given again by its balloon" in short.ctl("node", "show", NODE)


@pytest.mark.timeout(180)
def test_a_stricter_policy_waits_until_a_guest_has_moved_away(short: EmbeddedCluster) -> None:
    boot, strict = boot_id(short, "batch"), ("memory", "policy", NODE, "--ratio", "100")
    code, said = short.refused(*strict)
    assert code == 1 and "move or stop batch first (--drain shows where to)" in said
    assert "nowhere" in short.ctl(*strict, "--drain"), "the others are cordoned"
    code, said = short.refused(*strict, "--drain", "--apply")
    assert code == 1 and "fit nowhere else" in said
    short.ctl("node", "uncordon", "n3", "--wait")
    plan = short.json(*strict, "--drain")
    assert [(move["vm"], move["to"]) for move in plan["moves"]] == [("batch", "n3")] and plan["enough"]
    assert node_of(short, "batch") == NODE and "ratio_pct" not in ledger(short)["policy"], "that only showed it"

    assert "n2 has its new policy" in short.ctl(*strict, "--drain", "--apply", "--wait")
    after = ledger(short)
    assert after["policy"]["ratio_pct"] == 100 and after["charged_mib"] <= after["room_mib"]
    assert node_of(short, "batch") == "n3" and boot_id(short, "batch") == boot
    told = short.ctl("why", "vm/batch")
    wish = told.index("n2 is to have a memory policy of 100 %")
    assert wish < told.index("to be migrated from n2 to n3") < told.index("n3 saw generation 2 go on")
    assert "another memory policy (ratio 100 %) once batch went elsewhere" in short.ctl("why", "node/n2", "--last", "0")
    code, said = short.refused("vm", "migrate", "batch", "--node", NODE)
    assert code == 1 and "MiB" in said, "the policy holds"
    short.ctl("memory", "policy", NODE, "--ratio", "150", "--wait")
    short.ctl("vm", "migrate", "batch", "--node", NODE, "--wait")


@pytest.mark.timeout(240)
def test_where_all_is_needed_a_best_effort_guest_moves_away_and_keeps_what_it_has(short: EmbeddedCluster) -> None:
    boots = {vm: boot_id(short, vm) for vm in ("db", "lazy", "batch")}
    for vm in ("lazy", "batch"):
        assert guest(short, vm, "/bin/sh", "-c", FILL) == "begun"
    short.until(lambda: filled(short, "batch") > 60, "it to have something to lose")
    before = filled(short, "batch")
    short.until(lambda: node_of(short, "batch") == "n3", "one to have moved away")
    short.until(lambda: ledger(short)["level"] == "ample", "the node to have memory again")
    assert filled(short, "batch") >= before
    assert {vm: boot_id(short, vm) for vm in boots} == boots, "nobody was killed"
    wish = events(short, "vm_move_wanted")[-1]
    assert (wish["vm"], wish["generation"], wish["priority"]) == ("batch", 3, "best-effort") and not wish.get("at_us")
    told = short.ctl("why", "vm/batch", "--last", "0")
    begun = told.index("batch should run elsewhere: n2 has")
    assert begun < told.index("to be migrated from n2 to n3 as generation 4") < told.index("n3 saw generation 4 go on")
    assert short.json("memory", "prove")["holds"]
