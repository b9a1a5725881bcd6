"""`/v1/vms/VM/backup-plan` and `asvctl backup schedule`: the production decider behind gateway and command line."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from libs.common import cron
from libs.common.messages import Envelope, VmId
from proto import compute as c
from proto import io
from services.io.backups.model import BACKUPS
from services.io.backups.states import Backups
from tests.contract.canned_gateway import AT_US, Canned
from tests.contract.cli_rig import Ctl
from tests.contract.gateway_rig import UNREAD, Rig, problem, run_vm
from tests.model.backup_story import ROOM
from tests.model.protected_story import requested, stopped, taken

A = VmId("a")
BODY = {"cron": "0 2 * * *", "pool": "safe", "keep_last": 7}


class Plans:
    """io's decider over one stream."""

    def __init__(self, world: Rig) -> None:
        self.world, self.state = world, Backups()
        world.io.rules[io.SetBackupPlan] = self.decide

    def decide(self, command: io.SetBackupPlan) -> list[Any]:
        known = io.PlanKnown(defined=True, nodes=("n1",), room=ROOM, at_us=self.world.clock.now_us())
        events = list(BACKUPS.decide(msgspec.structs.replace(command, known=known), self.state))
        self.state = BACKUPS.fold(events, self.state)
        return events


@pytest.fixture
async def plans(world: Rig) -> Plans:
    found = Plans(world)
    await run_vm(world)
    return found


async def test_it_is_set_shown_and_taken_back(world: Rig, plans: Plans) -> None:
    admin = await world.client()
    assert (await admin.get("/v1/vms/a/backup-plan")).json()["plan"] is None
    done = await admin.put("/v1/vms/a/backup-plan", json=BODY)
    assert done.status_code == 202, done.text
    shown = (await admin.get("/v1/vms/a/backup-plan")).json()
    assert (shown["plan"]["cron"], shown["plan"]["keep_last"], shown["plan"]["full_every"]) == ("0 2 * * *", 7, 8)
    assert shown["next_us"] == cron.following("0 2 * * *", world.clock.now_us()) and shown["verify_us"] == 0
    assert (await admin.get("/v1/vms/a/backups")).json()["schedule"] == shown
    again = await admin.put("/v1/vms/a/backup-plan", json=BODY)
    task = (await admin.get(f"/v1/tasks/{again.json()['task']}")).json()
    assert (task["state"], task["sentence"]) == ("done", "the schedule of a was so already")
    assert (await admin.delete("/v1/vms/a/backup-plan")).status_code == 202
    assert (await admin.get("/v1/vms/a/backup-plan")).json()["plan"] is None
    assert (await admin.get("/v1/vms/a/backups")).json()["schedule"] is None


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (BODY | {"cron": "0 25 * * *"}, 409, "BAD_TIME"),
        (BODY | {"verify": "soon"}, 409, "BAD_TIME"),
        (BODY | {"keep_last": -1}, 400, None),
        (BODY | {"full_every": 99}, 400, None),
        (BODY | {"kept": 1}, 400, None),
        ({"pool": "safe"}, 400, None),
    ],
)
async def test_what_is_wrong_is_said(world: Rig, plans: Plans, body: dict[str, Any], status: int, reason: str | None) -> None:
    admin = await world.client()
    answer = await admin.put("/v1/vms/a/backup-plan", json=body)
    said = problem(answer, status, *([reason] if reason else []))
    if reason:
        assert '"0 2 * * *": every day' in str(said["remedy"])


async def test_why_tells_of_it(world: Rig, plans: Plans) -> None:
    admin = await world.client()
    await admin.put("/v1/vms/a/backup-plan", json=BODY)
    told = await admin.get("/v1/why/vm/a")
    assert told.status_code == 200, told.text
    assert "into pool safe; kept are the last 7" in told.text


async def test_who_may(world: Rig, plans: Plans) -> None:
    viewer, stranger = await world.client("viewer", ("default",)), await world.client("admin", ("elsewhere",))
    assert (await viewer.get("/v1/vms/a/backup-plan")).status_code == 200
    problem(await viewer.put("/v1/vms/a/backup-plan", json=BODY), 403)
    problem(await stranger.get("/v1/vms/a/backup-plan"), 404)
    problem(await stranger.put("/v1/vms/a/backup-plan", json=BODY), 404)
    problem(await stranger.delete("/v1/vms/a/backup-plan"), 404)


async def test_it_outlives_its_vm(world: Rig, plans: Plans) -> None:
    """A backup has to be there, by which its name is known still."""
    admin = await world.client()
    await admin.put("/v1/vms/a/backup-plan", json=BODY)
    said = Envelope(id="k1", data=UNREAD, actor="user:ann", project="default", correlation="k1")
    await world.tell("backups-a", [requested("b1-2"), taken("b1-2", at_s=1)], said)
    gone = [stopped(), c.VmDeleted(vm=A)]
    await world.gateway.follower.reach(await world.tell("vm-a", gone) + 1, 5)
    shown = (await admin.get("/v1/vms/a/backup-plan")).json()
    assert (shown["exists"], shown["plan"]["cron"], shown["next_us"]) == (False, "0 2 * * *", 0)
    problem(await admin.put("/v1/vms/a/backup-plan", json=BODY), 404)
    assert (await admin.delete("/v1/vms/a/backup-plan")).status_code == 202


# --- asvctl ------------------------------------------------------------------------------------------------------------------

SHOWN = {
    "vm": "web-1", "exists": True, "set_us": AT_US, "last_us": AT_US, "next_us": AT_US, "verify_us": AT_US,
    "plan": {
        "cron": "0 2 * * *", "pool": "safe", "freeze": "require", "rate_mibps": 50, "compress": True, "full_every": 4,
        "keep_last": 7, "keep_daily": 0, "keep_weekly": 4, "keep_monthly": 0, "verify": "0 4 * * 0",
    },
    "put_off": {"chore": "take", "due_us": AT_US, "failures": 2, "until_us": AT_US, "sentence": "pool safe is full"},
}  # fmt: skip
NONE = {"vm": "old", "exists": True, "plan": None, "set_us": 0, "last_us": 0, "next_us": 0, "verify_us": 0, "put_off": None}


@pytest.fixture
def told(gateway: Canned) -> Canned:
    items = {"exists": True, "items": [], "newest": "", "failure": None}
    gateway.more = {
        "vms/web-1/backup-plan": SHOWN, "vms/old/backup-plan": NONE,
        "vms/web-1/backups": items | {"vm": "web-1", "schedule": SHOWN}, "vms/old/backups": items | {"vm": "old"},
    }  # fmt: skip
    return gateway


def test_a_schedule_is_shown(ctl: Ctl, told: Canned) -> None:
    said = ctl("backup", "schedule", "web-1")
    assert said.code == 0, said.err
    for text in (
        "0 2 * * * (UTC)", "safe", "freeze require, at most 50 MiB/s, zstd", "one of 4", "7 last, 4 weekly",
        "0 4 * * 0 (UTC), next", "failed 2 times", "pool safe is full",
    ):  # fmt: skip
        assert text in said.out, text
    assert ctl("backup", "schedule", "web-1", "--json").json == SHOWN
    assert "none" in ctl("backup", "schedule", "old").out
    assert "web-1: backed up at 0 2 * * * (UTC), next" in ctl("backup", "ls", "web-1").err


@pytest.mark.parametrize(
    ("words", "method", "body"),
    [
        (
            ["old", "--cron", "0 2 * * *", "--pool", "safe", "--keep-last", "7", "--keep-daily", "30", "--verify", "0 4 * * 0"],
            "PUT", {"cron": "0 2 * * *", "pool": "safe", "keep_last": 7, "keep_daily": 30, "verify": "0 4 * * 0"},
        ),
        (["web-1", "--keep-last", "3"], "PUT", SHOWN["plan"] | {"keep_last": 3}),  # type: ignore[operator]
        (
            ["web-1", "--verify", "never", "--no-compress", "--freeze", "no", "--rate", "0", "--full-every", "1"],
            "PUT", SHOWN["plan"] | {"verify": "", "compress": False, "freeze": "no", "rate_mibps": 0, "full_every": 1},  # type: ignore[operator]
        ),
        (["web-1", "--none"], "DELETE", b""),
    ],
)  # fmt: skip
def test_it_asks_for_what_it_says(ctl: Ctl, told: Canned, words: list[str], method: str, body: Any) -> None:
    said = ctl("backup", "schedule", *words)
    assert said.code == 0, said.err
    assert told.posted == [(method, f"vms/{words[0]}/backup-plan", {}, body)]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["old", "--keep-last", "7"], "a new one needs --cron and --pool"),
        (["web-1", "--none", "--pool", "safe"], "--none says that there is to be no schedule"),
    ],
)
def test_what_it_refuses_itself(ctl: Ctl, told: Canned, words: list[str], said: str) -> None:
    answer = ctl("backup", "schedule", *words)
    assert answer.code == 2 and said in answer.err
    assert told.posted == []
