"""Backups and recoveries over HTTP: who sees them, what is asked of io, and what is shown of what goes on."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import msgspec

from libs.common.decider import Refused
from libs.common.messages import Envelope, VmId, encode
from proto import compute as c
from proto import io
from proto.machine import Freeze
from proto.node import CopiesBeat, CopyNow
from tests.contract.gateway_rig import UNREAD, Rig, defined, problem, run_vm, start_requested, started
from tests.model.protected_story import N1, A, B, S, recovery, requested, stopped, taken


def by(id: str, project: str = "default") -> Envelope:
    return Envelope(id=id, data=UNREAD, actor="user:ann", project=project, correlation=id)


async def back_up(world: Rig, project: str = "default") -> None:
    """a runs, and has b1-1 and, on it, b1-3."""
    await run_vm(world, "a", project)
    now_s = world.clock.now_us() / S
    for id, parent in (("b1-1", ""), ("b1-3", "b1-1")):
        await world.tell("backups-a", [requested(id, parent), taken(id, parent, at_s=now_s - 60)], by(f"k{id}", project))


async def tell(world: Rig, stream: str, *events: Any, id: str = "") -> None:
    await world.gateway.follower.reach(await world.tell(stream, events, by(id or world.clock.new_id())) + len(events) - 1, 5)


async def hear(world: Rig, *copies: CopyNow) -> None:
    """As n1's agent would tell it."""
    await world.bus.publish("tel.n1.copies", encode(CopiesBeat(node="n1", boot_id="b", at_us=0, copies=copies)))
    async with asyncio.timeout(5):
        while world.gateway.beats.copies() != copies:
            await asyncio.sleep(0.001)


async def shown(client: httpx.AsyncClient, path: str) -> Any:
    answer = await client.get(path)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_the_catalogue_is_shown_to_its_project_and_outlives_its_vm(world: Rig) -> None:
    await back_up(world)
    client = await world.client("viewer", ("default",))
    found = await shown(client, "/v1/vms/a/backups")
    assert [(one["backup"]["id"], one["backup"]["state"], one["progress"]) for one in found["items"]] == [
        ("b1-1", "taken", None), ("b1-3", "taken", None),
    ]  # fmt: skip
    assert (found["vm"], found["exists"], found["newest"], found["failure"]) == ("a", True, "b1-3", None)
    one = (await shown(client, "/v1/vms/a/backups/b1-3"))["backup"]
    assert (one["parent"], one["kind"], one["consistency"], one["bytes"]) == ("b1-1", "incremental", "filesystem", 1 << 20)
    problem(await client.get("/v1/vms/a/backups/b1-9"), 404, "BACKUP_UNKNOWN")
    problem(await client.get("/v1/vms/none/backups"), 404)
    await tell(world, "vm-a", stopped(), c.VmDeleted(vm=A))
    assert (await shown(client, "/v1/vms/a/backups"))["exists"] is False
    problem(await client.get("/v1/vms/a"), 404)
    stranger = await world.client("admin", ("elsewhere",))
    for path in ("a/backups", "a/backups/b1-3"):
        problem(await stranger.get(f"/v1/vms/{path}"), 404)
    for path in ("a/recover", "a/backups/b1-3/verify", "a/backups/b1-3/cancel"):
        problem(await stranger.post(f"/v1/vms/{path}"), 404)
    problem(await stranger.delete("/v1/vms/a/backups/b1-3"), 404)
    assert world.io.heard == []


async def test_one_is_taken_as_it_is_asked_for_and_its_name_is_told(world: Rig) -> None:
    await run_vm(world)
    world.io.rules[io.TakeBackup] = lambda command: [requested("b1-1")]
    client = await world.client("operator")
    body = {"pool": "safe", "full": True, "freeze": "require", "rate_mibps": 50, "compress": True, "description": "why"}
    answer = (await client.post("/v1/vms/a/backups", json=body)).json()
    ((envelope, command),) = world.io.heard
    assert (answer["status"], answer["backup"], answer["stream"], envelope.project) == ("accepted", "b1-1", "backups-a", "default")
    assert command == io.TakeBackup(
        vm="a", pool="safe", full=True, freeze=Freeze.REQUIRE, rate_mibps=50, compress=True, description="why"
    )
    task = await shown(client, f"/v1/tasks/{answer['task']}")
    assert (task["kind"], task["object"], task["state"]) == ("take-backup", "a/b1-1", "running")
    await hear(world, CopyNow(vm="a", what="backup", name="b1-1", done_mib=100, all_mib=400, mibps=30.0))
    far = (await shown(client, "/v1/vms/a/backups/b1-1"))["progress"]
    assert (far["percent"], far["mibps"], far["left_s"], far["end_us"] > world.clock.now_us()) == (25.0, 30.0, 10.0, True)
    await tell(world, "backups-a", taken("b1-1"))
    assert (await shown(client, "/v1/vms/a/backups/b1-1"))["progress"] is None
    assert (await shown(client, f"/v1/tasks/{answer['task']}"))["state"] == "done"


async def test_bodies_that_are_wrong_are_told_what_would_be_right(world: Rig) -> None:
    await back_up(world)
    client = await world.client("operator")
    for body, field in (
        ({}, "pool"), ({"pool": "Safe!"}, "pool"), ({"pool": "safe", "rate_mibps": -1}, "rate_mibps"),
        ({"pool": "safe", "freeze": "maybe"}, "freeze"), ({"pool": "safe", "speed": 3}, "speed"),
    ):  # fmt: skip
        assert problem(await client.post("/v1/vms/a/backups", json=body), 400)["field"] == field
    for body, field in (
        ({"backup": "b1"}, "backup"), ({"backup": "b1-1", "at": "-1h"}, "at"), ({"as": "B!"}, "as"), ({"at": "soon"}, "at"),
        ({"at": "2999-01-01"}, "at"), ({"at": "999999"}, "at"), ({"as_": "b"}, "as_"),
    ):  # fmt: skip
        assert problem(await client.post("/v1/vms/a/recover", json=body), 400)["field"] == field, body
    assert world.io.heard == []
    viewer = await world.client("viewer")
    for path in ("backups", "recover", "backups/b1-1/verify", "backups/b1-1/cancel"):
        problem(await viewer.post(f"/v1/vms/a/{path}", json={}), 403)


async def test_what_is_asked_of_one_goes_to_io_and_a_refusal_comes_back(world: Rig) -> None:
    await back_up(world)
    client = await world.client("operator")
    world.io.rules[io.VerifyBackup] = lambda command: [io.BackupVerifyRequested(vm=A, backup=command.backup, node=N1)]
    world.io.rules[io.CancelBackup] = lambda command: []

    def held(command: io.DeleteBackup) -> list[Any]:
        raise Refused(io.Refusal.BACKUP_IN_USE, "r1-7 needs it", "wait until that is over")

    world.io.rules[io.DeleteBackup] = held
    verify = (await client.post("/v1/vms/a/backups/b1-3/verify")).json()
    assert (await shown(client, "/v1/vms/a/backups/b1-3"))["backup"]["state"] == "verifying"
    assert (await shown(client, f"/v1/tasks/{verify['task']}"))["kind"] == "verify-backup"
    cancel = (await client.post("/v1/vms/a/backups/b1-3/cancel")).json()
    assert (await shown(client, f"/v1/tasks/{cancel['task']}"))["sentence"] == "nothing had to change"
    body = problem(await client.delete("/v1/vms/a/backups/b1-1"), 409, "BACKUP_IN_USE")
    assert (body["detail"], body["remedy"]) == ("r1-7 needs it", "wait until that is over")
    assert [type(command) for _, command in world.io.heard] == [io.VerifyBackup, io.CancelBackup, io.DeleteBackup]


async def recovers(world: Rig, client: httpx.AsyncClient, body: dict[str, Any], target: VmId = B) -> dict[str, Any]:
    def begin(command: io.RecoverVm) -> list[Any]:
        taken_s = world.clock.now_us() / S - 60
        return [recovery("r1-7", target, "b1-3", taken_s, isolated=command.isolated, start=command.start)]

    world.io.rules[io.RecoverVm] = begin
    answer = await client.post("/v1/vms/a/recover", json=body)
    assert answer.status_code == 202, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_a_recovery_is_followed_from_the_order_until_it_stands_on_its_own(world: Rig) -> None:
    await back_up(world)
    client = await world.client("operator")
    answer = await recovers(world, client, {"as": "b", "node": "n1", "pool": "fast", "isolated": True, "backup": "b1-3"})
    assert (answer["recovery"], answer["target"]) == ("r1-7", "b")
    asked = io.RecoverVm(vm="a", target="b", backup="b1-3", node="n1", pool="fast", isolated=True)
    assert world.io.heard[-1][1] == asked and world.io.heard[-1][0].project == "default"

    async def now() -> tuple[str, Any]:
        found = await shown(client, "/v1/recoveries/r1-7")
        return found["recovery"]["state"], found["progress"] and found["progress"]["percent"]

    assert await now() == ("preparing", None)
    task = answer["task"]
    await world.tell("vm-b", [defined("b"), c.VmRecoveryPrepared(vm=B, source=A, recovery="r1-7")], by(task))
    await tell(world, "devices-b", io.DisksRecovered(vm=B, source=A, recovery="r1-7"), id=task)
    await world.tell("vm-b", [start_requested("b")], by(task))
    await hear(world, CopyNow(vm="b", what="home", name="disk0", done_mib=0, all_mib=1024))
    assert await now() == ("preparing", 0.0)
    await tell(world, "vm-b", started("b"), id=task)
    assert await now() == ("copying", 0.0)
    said = (await shown(client, "/v1/vms/b"))["recovering"]
    assert said == "from b1-3 of a (r1-7): part of its data is in the backup only, and comes home while it runs"
    assert (await shown(client, f"/v1/tasks/{task}"))["state"] == "done"
    await hear(world)
    assert await now() == ("on-backup", None)
    held = [one["backup"]["held_by"] for one in (await shown(client, "/v1/vms/a/backups"))["items"]]
    assert held == [["r1-7"], ["r1-7"]]
    await tell(world, "devices-b", io.DisksHome(vm=B, source=A, recovery="r1-7"))
    await tell(world, "backups-a", io.RecoveryEnded(vm=A, target=B, recovery="r1-7", end=io.EndKind.INDEPENDENT))
    assert await now() == ("independent", None) and (await shown(client, "/v1/vms/b"))["recovering"] == ""
    (row,) = [row for row in (await shown(client, "/v1/recoveries/report"))["items"] if row["vm"] == "a"]
    assert (row["grade"], row["recovery"], row["kind"], row["newest"]) == ("met", "r1-7", "isolated", "b1-3")
    assert 59 < row["rpo_s"] < 120 and 59 < row["exposed_s"] < 120


async def test_recoveries_are_shown_to_their_project_and_by_an_id_that_is_one(world: Rig) -> None:
    await back_up(world)
    await tell(world, "backups-a", recovery("r1-7", B, "b1-3"))
    other = msgspec.structs.replace(recovery("r1-7", VmId("x"), "b1-3"), vm=VmId("x"))
    await world.gateway.follower.reach(await world.tell("backups-x", [other], by("x", "blue")), 5)
    every = await world.client("viewer")
    assert [one["recovery"]["source"] for one in (await shown(every, "/v1/recoveries"))["items"]] == ["a", "x"]
    assert "a.r1-7, x.r1-7" in problem(await every.get("/v1/recoveries/r1-7"), 409, "AMBIGUOUS")["remedy"]
    assert (await shown(every, "/v1/recoveries/x.r1-7"))["recovery"]["target"] == "x"
    mine = await world.client("viewer", ("default",))
    assert [one["recovery"]["source"] for one in (await shown(mine, "/v1/recoveries"))["items"]] == ["a"]
    assert (await shown(mine, "/v1/recoveries/r1-7"))["recovery"]["source"] == "a"
    problem(await mine.get("/v1/recoveries/x.r1-7"), 404, "RECOVERY_UNKNOWN")
    assert [row["vm"] for row in (await shown(mine, "/v1/recoveries/report"))["items"]] == ["a"]


async def test_a_moment_is_a_time_a_position_or_how_long_ago(world: Rig) -> None:
    await back_up(world)
    client = await world.client("operator")

    async def instant(text: str) -> int:
        await recovers(world, client, {"at": text})
        command = world.io.heard[-1][1]
        assert isinstance(command, io.RecoverVm)
        return command.at_us

    assert await instant("now") == 0 and await instant("") == 0
    assert await instant("2026-11-20T14:03:00+01:00") == 1_795_179_780 * S
    assert abs(await instant("-1h") - (world.clock.now_us() - 3600 * S)) < 60 * S
    (row,) = await world.log.read_all(0, 1)
    assert await instant("1") == row.at_us


async def test_a_name_of_another_project_is_no_target(world: Rig) -> None:
    await back_up(world)
    await run_vm(world, "x", "blue")
    client = await world.client("operator", ("default",))
    problem(await client.post("/v1/vms/a/recover", json={"as": "x"}), 409, "NAME_TAKEN")
    assert world.io.heard == []


async def test_a_start_that_is_refused_is_told_as_what_it_waits_for(world: Rig) -> None:
    """Such a start leaves no event; one that was refused before it is another matter."""
    await back_up(world)
    await tell(world, "vm-a", stopped())
    client = await world.client("operator")

    def full(command: c.StartVm) -> list[Any]:
        raise Refused(c.Refusal.NO_NODE_FITS, "no node has 256 MiB left", "add one")

    world.compute.rules[c.StartVm] = full
    problem(await client.post("/v1/vms/a/start"), 409)
    task = (await recovers(world, client, {"lose": "a"}, A))["task"]
    await tell(world, "vm-a", c.VmRecoveryPrepared(vm=A, source=A, recovery="r1-7"))
    await tell(world, "devices-a", io.DisksRecovered(vm=A, source=A, recovery="r1-7"))
    assert (await shown(client, "/v1/recoveries/r1-7"))["recovery"]["state"] == "preparing"
    assert (await shown(client, f"/v1/tasks/{task}"))["state"] == "running"
    problem(await client.post("/v1/vms/a/start"), 409)
    ended = await shown(client, f"/v1/tasks/{task}")
    assert (ended["state"], ended["sentence"]) == ("failed", "a is made, and waits for its start: no node has 256 MiB left")
    found = (await shown(client, "/v1/recoveries/r1-7"))["recovery"]
    assert (found["state"], found["sentence"]) == ("waiting", "no node has 256 MiB left")
    (alert,) = (await shown(client, "/v1/alerts"))["items"]
    assert (alert["kind"], alert["object"]) == ("recovery-waits", "vm/a") and "no node has 256 MiB left" in alert["sentence"]
    await tell(world, "vm-a", start_requested("a", generation=2), started("a", generation=2))
    assert (await shown(client, "/v1/recoveries/r1-7"))["recovery"]["state"] == "on-backup"
    assert (await shown(client, "/v1/alerts"))["items"] == []


async def test_alerts_tell_of_damage_and_of_the_latest_failure_to_those_who_see_the_vm(world: Rig) -> None:
    await back_up(world)
    await tell(world, "backups-a", io.BackupDamaged(vm=A, backup="b1-1", found={"b1-1": "disk0 is cut short"}))
    await tell(world, "backups-a", requested("b1-6"), io.BackupFailed(vm=A, backup="b1-6", sentence="no room in safe"))
    client = await world.client("viewer")
    found = {one["kind"]: one for one in (await shown(client, "/v1/alerts"))["items"]}
    assert set(found) == {"backup-damaged", "backup-failed"}
    assert (found["backup-damaged"]["object"], found["backup-failed"]["object"]) == ("backup/a/b1-1", "vm/a")
    assert "of no use with it: b1-3" in found["backup-damaged"]["sentence"]
    assert (await shown(client, "/v1/vms/a/backups"))["failure"]["sentence"] == "no room in safe"
    stranger = await world.client("viewer", ("elsewhere",))
    assert (await shown(stranger, "/v1/alerts"))["items"] == []


async def test_why_tells_the_chain_across_the_streams_and_of_one_backup(world: Rig) -> None:
    await back_up(world)
    asked = await world.tell("backups-a", [recovery("r1-7", B, "b1-3")], by("t"))

    async def because(stream: str, event: Any, cause: int) -> int:
        envelope = Envelope(
            id=world.clock.new_id(), data=UNREAD, actor="service:x", project="default", correlation="t", causation=f"1-{cause}"
        )
        return await world.tell(stream, [event], envelope)

    made = await because("vm-b", defined("b"), asked)
    ready = await because("vm-b", c.VmRecoveryPrepared(vm=B, source=A, recovery="r1-7"), asked)
    disks = await because("devices-b", io.DisksRecovered(vm=B, source=A, recovery="r1-7"), ready)
    last = await because("vm-b", start_requested("b"), disks)
    await world.gateway.follower.reach(last, 5)
    client = await world.client("viewer")
    (story,) = (await shown(client, "/v1/why/vm/b"))["stories"]
    (root,) = story["steps"]
    assert (root["position"], root["stream"], story["asked_by"]) == (asked, "backups-a", "user:ann")
    assert root["sentence"] == "b is to be recovered from the backup b1-3, which is held for recovery r1-7"
    assert [step["position"] for step in root["effects"]] == [made, ready]
    assert root["effects"][1]["effects"][0]["effects"][0]["position"] == last
    told = (await shown(client, "/v1/why/backup/a/b1-3"))["stories"]
    assert [step["type"] for story in told for step in story["steps"]] == [
        "backup_requested", "backup_taken", "recovery_requested",
    ]  # fmt: skip
    problem(await client.get("/v1/why/backup/a/b1-77"), 404, "BACKUP_UNKNOWN")
    problem(await (await world.client("viewer", ("elsewhere",))).get("/v1/why/backup/a/b1-3"), 404)
    assert len((await shown(client, "/v1/timeline/backup/a"))["items"]) == 5


async def test_the_past_has_them_as_they_were(world: Rig) -> None:
    await back_up(world)
    then = (await world.log.head()).position
    await tell(world, "backups-a", recovery("r1-7", B, "b1-3"), io.BackupDamaged(vm=A, backup="b1-1", found={"b1-1": "cut"}))
    client = await world.client("operator")
    await hear(world, CopyNow(vm="b", what="home", name="disk0", done_mib=0, all_mib=1))
    assert (await shown(client, f"/v1/vms/a/backups/b1-1?at={then}"))["backup"]["state"] == "taken"
    assert (await shown(client, "/v1/vms/a/backups/b1-1"))["backup"]["state"] == "damaged"
    assert (await shown(client, f"/v1/recoveries?at={then}"))["items"] == []
    assert (await shown(client, f"/v1/recoveries/r1-7?at={then + 1}"))["progress"] is None
    report = await shown(client, f"/v1/recoveries/report?at={then}")
    assert report["items"][0]["grade"] == "untried" and report["at_us"] <= world.clock.now_us()
    problem(await client.post(f"/v1/vms/a/recover?at={then}", json={}), 400, "PAST_IS_OVER")
