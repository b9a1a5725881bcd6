"""`/v1/vms/VM/drill`, `/v1/drills` and `asvctl recovery drill`: the production decider behind gateway and command line."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from libs.common.messages import VmId
from proto import drills as d
from proto.drills import DrillKnown, Reason
from proto.recovery import RecoverKnown
from services.io.backups.model import BACKUPS
from services.io.backups.states import Backups
from tests.contract.canned_gateway import AT_US, HOSTILE, Canned
from tests.contract.cli_rig import Ctl
from tests.contract.gateway_rig import Rig, problem, run_vm
from tests.model.protected_story import requested, taken

A = VmId("a")
CHECK = ["sh", "-c", "exit 0"]


class Drills:
    """io's decider over one stream."""

    def __init__(self, world: Rig) -> None:
        self.world, self.state = world, Backups()
        for kind in (d.DrillVm, d.CancelDrill, d.SetDrillPlan):
            world.io.rules[kind] = self.decide

    def decide(self, command: Any) -> list[Any]:
        recover = RecoverKnown(nodes={"b1-1": ("n1",)})
        known = DrillKnown(defined=True, at_us=self.world.clock.now_us(), recover=recover)
        events = list(BACKUPS.decide(replace(command, known=known), self.state))
        self.state = BACKUPS.fold(events, self.state)
        return events

    async def tell(self, *events: Any) -> None:
        self.state = BACKUPS.fold(events, self.state)
        await self.world.gateway.follower.reach(await self.world.tell("backups-a", events) + len(events) - 1, 5)


@pytest.fixture
async def drills(world: Rig) -> Drills:
    found = Drills(world)
    await run_vm(world)
    await found.tell(requested("b1-1"), taken("b1-1"))
    return found


async def test_one_is_asked_for_shown_and_given_up(world: Rig, drills: Drills) -> None:
    client = await world.client("operator")
    answer = (await client.post("/v1/vms/a/drill", json={"backup": "b1-1", "check": CHECK, "timeout_s": 60})).json()
    (one,) = (await client.get("/v1/drills")).json()["items"]
    assert (one["id"], one["state"], one["backup"]) == (answer["drill"], "waiting", "b1-1")
    assert (one["check"], one["timeout_s"], one["agent"]) == (CHECK, 60, True)
    assert problem(await client.post("/v1/vms/a/drill"), 409, "BUSY")["remedy"].endswith("asvctl recovery drill a --cancel")
    task = (await client.get(f"/v1/tasks/{answer['task']}")).json()
    assert (task["kind"], task["state"]) == ("drill", "running")
    assert (await client.delete("/v1/vms/a/drill")).status_code == 202
    (one,) = (await client.get("/v1/drills")).json()["items"]
    assert (one["state"], one["reason"], one["target"]) == ("failed", "cancelled", "") and one["cleaned_us"]
    assert (await client.get(f"/v1/tasks/{answer['task']}")).json()["state"] == "failed"
    problem(await client.delete("/v1/vms/a/drill"), 409, "DRILL_UNKNOWN")
    problem(await client.post("/v1/vms/a/drill", json={"backup": "b1-9"}), 409, "BACKUP_UNKNOWN")
    assert (await client.get("/v1/alerts")).json()["items"] == []


async def test_a_plan_is_set_shown_and_taken_back(world: Rig, drills: Drills) -> None:
    client = await world.client("operator")
    body = {"cron": "0 4 * * 0", "check": CHECK, "timeout_s": 600, "agent": True}
    assert (await client.put("/v1/vms/a/drill-plan", json=body)).status_code == 202
    shown = (await client.get("/v1/vms/a/drill-plan")).json()
    assert shown["plan"] == body and shown["next_us"] > world.clock.now_us()
    assert (await client.get("/v1/drills")).json()["plans"] == [shown]
    (row,) = (await client.get("/v1/recoveries/report")).json()["items"]
    assert (row["planned"], row["drilled"]) == ("0 4 * * 0", "")
    assert (await client.delete("/v1/vms/a/drill-plan")).status_code == 202
    assert (await client.get("/v1/vms/a/drill-plan")).json()["plan"] is None
    problem(await client.put("/v1/vms/a/drill-plan", json=body | {"cron": "0 25 * * *"}), 409, "BAD_TIME")


async def test_who_may_and_what_is_no_drill(world: Rig, drills: Drills) -> None:
    client, stranger = await world.client("operator"), await world.client("admin", ("elsewhere",))
    for body, field in (({"timeout_s": 1}, "timeout_s"), ({"check": "ls"}, "check"), ({"backup": "b1"}, "backup"), ({"x": 1}, "x")):
        assert problem(await client.post("/v1/vms/a/drill", json=body), 400)["field"] == field
    problem(await client.post("/v1/vms/a/drill", json={"check": CHECK, "agent": False}), 409, "BAD_DRILL")
    problem(await (await world.client("viewer")).post("/v1/vms/a/drill"), 403)
    problem(await stranger.post("/v1/vms/a/drill"), 404)
    await client.post("/v1/vms/a/drill")
    assert (await stranger.get("/v1/drills")).json() == {"items": [], "plans": []}


async def test_a_failure_is_an_alert(world: Rig, drills: Drills) -> None:
    client = await world.client("operator")
    id = (await client.post("/v1/vms/a/drill")).json()["drill"]
    failed = d.DrillFailed(vm=A, drill=id, reason=Reason.NO_ROOM, sentence="n1 has 10 of 4096 MiB free")
    await drills.tell(failed, d.DrillCleaned(vm=A, drill=id))
    (alert,) = (await client.get("/v1/alerts")).json()["items"]
    assert (alert["kind"], alert["object"]) == ("drill-failed", "vm/a") and "n1 has 10 of 4096" in alert["sentence"]


# --- asvctl ------------------------------------------------------------------------------------------------------------------

ONE = {
    "id": "d1-8", "vm": "a", "project": "red", "state": "failed", "backup": "b1-1", "check": CHECK, "agent": True, "timeout_s": 60,
    "asked_us": AT_US, "target": "drill-a-1-9", "taken_us": AT_US, "started_us": AT_US, "ended_us": AT_US, "cleaned_us": 0,
    "node": "n1", "first_ms": 654, "agent_ms": 5690, "took_ms": 5760, "rpo_s": 90.0, "exit_code": 3, "output": HOSTILE,
    "last_line": HOSTILE, "reason": "check", "sentence": "its check exited with 3", "due_us": 0, "actor": "user:x", "task": "t",
}  # fmt: skip
PLAN = {"vm": "a", "plan": {"cron": "0 4 * * 0", "check": [], "timeout_s": 600, "agent": True}, "set_us": 1, "next_us": AT_US}
DRILL = {"check": [], "timeout_s": 600, "agent": True}


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        (["recovery", "drill", "web-1"], ("POST", "vms/web-1/drill", {}, DRILL)),
        (
            ["recovery", "drill", "web-1", "--backup", "b1-1", "--check", "sh -c 'a b'", "--within", "60"],
            ("POST", "vms/web-1/drill", {}, {"check": ["sh", "-c", "a b"], "timeout_s": 60, "agent": True, "backup": "b1-1"}),
        ),
        (["recovery", "drill", "web-1", "--no-agent"], ("POST", "vms/web-1/drill", {}, DRILL | {"agent": False})),
        (
            ["recovery", "drill", "web-1", "--schedule", "0 4 * * 0"],
            ("PUT", "vms/web-1/drill-plan", {}, DRILL | {"cron": "0 4 * * 0"}),
        ),
        (["recovery", "drill", "web-1", "--none"], ("DELETE", "vms/web-1/drill-plan", {}, b"")),
        (["recovery", "drill", "web-1", "--cancel"], ("DELETE", "vms/web-1/drill", {}, b"")),
        (["backup", "verify", "web-1", "b1-1", "--boot"], ("POST", "vms/web-1/drill", {}, {"backup": "b1-1"})),
    ],
)
def test_each_word_asks_for_what_it_says(ctl: Ctl, gateway: Canned, words: list[str], asked: Any) -> None:
    assert ctl(*words).code == 0
    assert gateway.posted == [asked]


def test_words_that_contradict_or_are_no_command(ctl: Ctl, gateway: Canned) -> None:
    for words in (["--none", "--cancel"], ["--schedule", "0 4 * * 0", "--backup", "b1-1"], ["--check", "sh -c 'a"]):
        assert ctl("recovery", "drill", "web-1", *words).code == 2
    assert gateway.posted == []


def test_drills_are_listed_and_nothing_of_a_guest_is_obeyed(ctl: Ctl, gateway: Canned) -> None:
    passed = ONE | {"id": "d1-20", "state": "passed", "reason": "", "sentence": "", "exit_code": 0, "cleaned_us": AT_US}
    gateway.more["drills"] = {"items": [ONE, passed, passed | {"vm": "b"}], "plans": [PLAN]}
    said = ctl("recovery", "drills", "a")
    for text in ("failed (drill-a-1-9)", "check: its check exited with 3", "654 ms", "5.69 s", "1 min 30 s", "passed"):
        assert text in said.out
    assert "\x1b" not in said.out and 'a is drilled at "0 4 * * 0", next at' in said.err
    assert len(ctl("recovery", "drills", "a", "--json").json["items"]) == 2
