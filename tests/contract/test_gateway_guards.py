"""`/v1/vms/VM/guard` and `asvctl vm guard`: the production guard behind gateway and command line; what is shown of its work."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from libs.common.messages import NodeId, VmId
from proto import compute as c
from proto.examples import example
from proto.guard import Cause, Guard, GuardEnded, GuardSet, Mode, RestartWanted, SetGuard, VmOwed, VmUnplaced
from proto.lease import NodeLost, Proof, ProofKind
from proto.machine import Disk, DiskFormat
from proto.reserve import Plan, ReserveSet
from services.cli.main import run
from services.ha.guard import GUARD, Watch
from tests.contract.gateway_rig import Rig, problem, run_vm

A, N1 = VmId("a"), NodeId("n1")
S = 1_000_000
LOCAL = "it has a disk in the pool ssd, which one node alone reaches"


class Guards:
    """The production decider over one stream. why_not: as ha's view would have it."""

    def __init__(self, world: Rig) -> None:
        self.world, self.state, self.why_not = world, Watch(), ""
        world.ha.rules[SetGuard] = self.decide

    def decide(self, command: SetGuard) -> list[Any]:
        told = msgspec.structs.replace(command, defined=True, why_not=self.why_not)
        events = list(GUARD.decide(told, self.state))
        self.state = GUARD.fold(events, self.state)
        return events


@pytest.fixture
async def guards(world: Rig) -> Guards:
    guards = Guards(world)
    await run_vm(world)
    return guards


async def told(world: Rig, stream: str, *events: Any) -> None:
    await world.gateway.follower.reach(await world.tell(stream, list(events)) + len(events) - 1, 5.0)


async def test_a_guard_is_set_and_shown(world: Rig, guards: Guards) -> None:
    admin = await world.client()
    assert (await admin.get("/v1/vms/a/guard")).json()["guard"]["mode"] == "auto"
    done = await admin.put("/v1/vms/a/guard", json={"mode": "in-place", "failures_max": 5})
    assert done.status_code == 202
    shown = (await admin.get("/v1/vms/a/guard")).json()["guard"]
    assert (shown["mode"], shown["failures_max"], shown["hangs"]) == ("in-place", 5, True)
    assert (await admin.get("/v1/vms/a")).json()["guard"]["mode"] == "in-place"
    again = await admin.put("/v1/vms/a/guard", json={"mode": "in-place"})
    task = (await admin.get(f"/v1/tasks/{again.json()['task']}")).json()
    assert task["state"] == "done" and "so already" in task["sentence"]


async def test_what_cannot_be_kept_is_refused_with_what_would_be_right(world: Rig, guards: Guards) -> None:
    guards.why_not = LOCAL
    admin = await world.client()
    refused = problem(await admin.put("/v1/vms/a/guard", json={"mode": "restart"}), 409, "LOCAL_DISK")
    assert LOCAL in refused["detail"] and "in-place" in refused["remedy"]
    problem(await admin.put("/v1/vms/a/guard", json={"mode": "never"}), 400)
    problem(await admin.put("/v1/vms/a/guard", json={"failures_max": 101}), 400)
    problem(await admin.put("/v1/vms/a/guard", json={"after": ["nobody"]}), 404)
    problem(await (await world.client("viewer")).put("/v1/vms/a/guard", json={"mode": "off"}), 403)


async def test_what_is_owed_is_shown_with_what_would_make_it_possible(
    world: Rig, guards: Guards, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = NodeLost(node=N1, boot_id="b", epoch=1, at_us=9, proof=Proof(kind=ProofKind.LEASE, at_us=1, sentence="spent"))
    await told(world, "lease-n1", lost)
    admin = await world.client()
    shown = (await admin.get("/v1/vms/a")).json()
    assert shown["node_lost"] == "spent", "what became of it is not known"
    assert {a["kind"] for a in (await admin.get("/v1/alerts")).json()["items"]} == {"node-lost", "vm-unknown"}
    ended = c.VmStopped(vm=A, node=N1, generation=1, cause=c.GoneCause.NODE_LOST, sentence="spent", unwished=True)
    await told(world, "vm-a", ended)
    owed = VmOwed(vm=A, cause=Cause.NODE_LOST, node=N1, generation=1, at_us=9 * S, try_us=9 * S, sentence="spent")
    wanted = RestartWanted(vm=A, attempt=1, at_us=9 * S)
    no = VmUnplaced(vm=A, sentence="no node fits: cordoned: n2", remedy="uncordon n2", try_us=14 * S)
    await told(world, "guard-a", owed, wanted, no)
    shown = (await admin.get("/v1/vms/a")).json()
    assert shown["node_lost"] == "" and shown["owed"]["remedy"] == "uncordon n2" and shown["owed"]["attempt"] == 1
    found = (await admin.get("/v1/why-not/vm/a?started=true")).json()
    assert "cordoned: n2" in found["sentence"] and found["remedy"] == "uncordon n2"
    alerts = {a["kind"]: a for a in (await admin.get("/v1/alerts")).json()["items"]}
    assert alerts.keys() == {"node-lost", "vm-owed"} and alerts["vm-owed"]["remedy"] == "uncordon n2"
    other = await world.client("viewer", ("elsewhere",))
    assert "vm-owed" not in {a["kind"] for a in (await other.get("/v1/alerts")).json()["items"]}
    await cli(world, monkeypatch, "vm", "ls")
    assert "stopped (owed)" in capfd.readouterr().out
    await cli(world, monkeypatch, "vm", "show", "a")
    assert "no node fits: cordoned: n2; uncordon n2, attempt 1; tried again at" in capfd.readouterr().out
    await told(world, "guard-a", GuardEnded(vm=A, sentence="it failed 4 times within 1800 s", given_up=True))
    assert "vm-given-up" in {a["kind"] for a in (await admin.get("/v1/alerts")).json()["items"]}
    await told(world, "guard-a", GuardEnded(vm=A, sentence="somebody wants it stopped"))
    found = (await admin.get("/v1/why-not/vm/a?started=true")).json()
    assert "somebody wants it stopped" in found["sentence"] and found["remedy"] == "start a"


async def test_a_promise_that_a_disk_has_broken_is_told(
    world: Rig, guards: Guards, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it may be by a move to a node with a pool of its own, or where both were asked for at the same moment."""
    reported = msgspec.structs.replace(example(c.NodeReported), node=N1)
    for name, word in (("n1", "one"), ("n2", "two")):
        ids = {"default": "shared", "ssd": word}
        can = msgspec.structs.replace(reported.capabilities, pools=tuple(ids), pool_ids=ids)
        await told(world, f"node-{name}", c.NodeJoined(node=NodeId(name), key="k"))
        await told(world, f"node-{name}", msgspec.structs.replace(reported, node=NodeId(name), capabilities=can))
    disks = tuple(
        Disk(name=f"disk{n}", pool=pool, pool_id=word, file=f"{pool}-{n}", size_mib=9, format=DiskFormat.QCOW2, serial=pool, slot=n)
        for n, (pool, word) in enumerate((("default", "shared"), ("ssd", "one")), 1)
    )
    noted = c.VmDevicesNoted(vm=A, generation=1, disks=disks[:1], nics=(), changed=True)
    await told(world, "vm-a", noted)
    await told(world, "guard-a", GuardSet(vm=A, guard=Guard(mode=Mode.RESTART)))
    admin = await world.client()
    assert (await admin.get("/v1/vms/a")).json()["stays"] == "" and not (await admin.get("/v1/alerts")).json()["items"]
    await told(world, "vm-a", msgspec.structs.replace(noted, disks=disks, protected=False))
    why = "it has a disk in the pool ssd one, which one node alone reaches"
    for page in ("/v1/vms/a", "/v1/vms/a/guard"):
        assert (await admin.get(page)).json()["stays"] == why
    (alert,) = (await admin.get("/v1/alerts")).json()["items"]
    assert alert["kind"] == "guard-unkept" and why in alert["sentence"] and "vm guard a --mode auto" in alert["remedy"]
    assert "guards it no more" in (await admin.get("/v1/why/vm/a")).text
    await told(world, "guard-a", GuardSet(vm=A, guard=Guard()))
    assert not (await admin.get("/v1/alerts")).json()["items"]
    await cli(world, monkeypatch, "vm", "show", "a")
    assert f"auto: only where it was, once that node is back ({why})" in capfd.readouterr().out


async def test_the_reserve_is_shown_beside_how_nodes_stand(
    world: Rig, guards: Guards, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    short = "no loss of a node is covered: 700 MiB more would have to be free"
    plan = Plan(nodes=1, wanted=1, shares={"n1": 1024, "n2": 1024}, missing_mib=700, demand_mib=2748, sentence=short)
    await told(world, "reserve-main", ReserveSet(at_us=5, plan=plan))
    found = (await (await world.client("viewer")).get("/v1/ha")).json()["reserve"]
    assert (found["wanted"], found["covers"], found["missing_mib"]) == (1, 0, 700)
    alerts = {a["kind"]: a for a in (await (await world.client("viewer")).get("/v1/alerts")).json()["items"]}
    assert "700 MiB" in alerts["reserve-short"]["sentence"]
    await cli(world, monkeypatch, "ha", "status")
    assert "2 GiB is kept free, no loss of a node is covered: 700 MiB more" in capfd.readouterr().out


async def test_from_the_command_line(
    world: Rig, guards: Guards, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    await cli(world, monkeypatch, "vm", "guard", "a", "--mode", "in-place", "--failures", "2", "--window", "10m", "--no-hangs")
    assert (guards.state.guard.failures_max, guards.state.guard.window_s, guards.state.guard.hangs) == (2, 600, False)
    capfd.readouterr()
    await cli(world, monkeypatch, "vm", "guard", "a")
    out = capfd.readouterr().out
    assert "in-place" in out and "at most 2 in 600 s" in out and "left alone" in out
    guards.why_not = LOCAL
    await cli(world, monkeypatch, "vm", "guard", "a", "--mode", "restart", code=1)
    assert LOCAL in capfd.readouterr().err


async def cli(world: Rig, monkeypatch: pytest.MonkeyPatch, *words: str, code: int = 0) -> None:
    token = (await world.client("admin")).headers["authorization"].removeprefix("Bearer ")
    monkeypatch.setenv("ASV_API", world.url)
    monkeypatch.setenv("ASV_TOKEN", token)
    assert await asyncio.to_thread(run, words) == code
