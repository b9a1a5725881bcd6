"""Reads of the past over HTTP: each answers from the views of that moment, and what nobody recorded is refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec

from libs.common.messages import Envelope, Reply, encode
from proto import compute as c
from tests.contract.gateway_rig import ABILITIES, UNREAD, Rig, defined, start_requested, started


def by(actor: str, id: str, project: str = "default") -> Envelope:
    return Envelope(id=id, data=UNREAD, actor=actor, project=project, correlation=id)


async def live(world: Rig) -> dict[str, int]:
    """A node, a VM that starts and stops, one that is deleted, one of another project. The position after each step."""
    at: dict[str, int] = {}
    at["joined"] = await world.tell("node-n1", [c.NodeJoined(node="n1", key="k")])  # type: ignore[arg-type]
    report = c.NodeReported(node="n1", capabilities=ABILITIES, boot_id="b1")  # type: ignore[arg-type]
    at["reported"] = await world.tell("node-n1", [report])
    at["defined"] = await world.tell("vm-web-1", [defined("web-1")], by("user:ann", "t-define"))
    at["other"] = await world.tell("vm-db-1", [defined("db-1")], by("user:bob", "t-other", "blue"))
    at["asked"] = await world.tell("vm-web-1", [start_requested("web-1")], by("user:ann", "t-start"))
    at["started"] = await world.tell("vm-web-1", [started("web-1")], by("node:n1", "t-start"))
    at["cordoned"] = await world.tell("node-n1", [c.NodeCordoned(node="n1", reason="a fan")], by("user:eve", "t-cordon"))  # type: ignore[arg-type]
    at["gone"] = await world.tell("vm-db-1", [c.VmDeleted(vm="db-1")], by("user:bob", "t-delete", "blue"))  # type: ignore[arg-type]
    return at


async def test_every_list_is_as_it_was(world: Rig) -> None:
    at, client = await live(world), await world.client()
    states = {}
    for step in ("defined", "other", "started", "gone"):
        answer = await client.get("/v1/vms", params={"at": at[step]})
        states[step] = {vm["name"]: vm["state"] for vm in answer.json()["items"]}
        assert answer.headers["asv-at-position"] == str(at[step]) and "UTC" in answer.headers["asv-at-time"]
    assert states == {
        "defined": {"web-1": "stopped"},
        "other": {"web-1": "stopped", "db-1": "stopped"},
        "started": {"web-1": "running", "db-1": "stopped"},
        "gone": {"web-1": "running"},
    }
    node = (await client.get("/v1/nodes/n1", headers={"Asv-At": str(at["started"])})).json()
    assert (node["cordoned"], (await client.get("/v1/nodes/n1")).json()["cordoned"]) == (False, True)
    assert (await client.get("/v1/vms/db-1", params={"at": at["started"]})).json()["project"] == "blue"
    assert (await client.get("/v1/vms/db-1", params={"at": at["defined"]})).status_code == 404
    assert "asv-at-position" not in (await client.get("/v1/vms")).headers
    tasks = [task["id"] for task in (await client.get("/v1/tasks", params={"at": at["defined"]})).json()["items"]]
    assert tasks[0] == "t-define" and len(tasks) == 2, "the latest first; the other is the node's"
    why = (await client.get("/v1/why/vm/web-1", params={"at": at["asked"]})).json()
    assert "vm_started" not in str(why) and "vm_start_requested" in str(why)


async def test_who_may_not_see_it_now_may_not_see_it_then(world: Rig) -> None:
    at = await live(world)
    client = await world.client("viewer", ("default",))
    assert [vm["name"] for vm in (await client.get("/v1/vms", params={"at": at["other"]})).json()["items"]] == ["web-1"]
    assert (await client.get("/v1/vms/db-1", params={"at": at["other"]})).status_code == 404
    changed = (await client.get("/v1/diff", params={"from": at["joined"], "to": at["gone"]})).json()["changes"]
    assert {change["object"] for change in changed} == {"vm/web-1", "node/n1"} and "db-1" not in str(changed)
    assert (await client.get("/v1/timeline/vm/db-1")).status_code == 404


async def test_times_are_moments_too(world: Rig) -> None:
    at, client = await live(world), await world.client()
    now = await client.get("/v1/vms", params={"at": "-0s"})
    assert now.headers["asv-at-position"] == str(at["gone"])
    written_us = (await world.log.read_all(at["other"] - 1, 1))[0].at_us
    text = (datetime.fromtimestamp(0, UTC) + timedelta(microseconds=written_us)).isoformat()
    found = int((await client.get("/v1/vms", params={"at": text})).headers["asv-at-position"])
    assert found >= at["other"], "of several at one time, the last"


async def test_what_is_no_moment_changes_something_or_was_never_recorded_is_refused(world: Rig) -> None:
    at, client = await live(world), await world.client()
    for moment, reason, said in (
        ("yesterday", "BAD_MOMENT", "is no moment of the past"),
        ("999", "BAD_MOMENT", f"the log ends at position {at['gone']}"),
        ("2001-01-01", "BAD_MOMENT", "before the first event"),
        ("2999-01-01", "BAD_MOMENT", "not past yet"),
    ):
        problem = (await client.get("/v1/vms", params={"at": moment})).json()
        assert (problem["status"], problem["reason"], said in problem["detail"]) == (400, reason, True), problem
        assert problem["field"] == "at" and problem["remedy"]
    for method, path in (("POST", "/v1/vms/web-1/stop"), ("DELETE", "/v1/vms/web-1"), ("PUT", "/v1/vms/web-1/guard")):
        problem = (await client.request(method, path, params={"at": 1})).json()
        assert (problem["status"], problem["reason"]) == (400, "PAST_IS_OVER"), problem
    assert world.compute.heard == [] and world.ha.heard == []
    for path in ("/metrics", "/v1/vms/web-1/io", "/v1/vms/web-1/schedule", "/v1/tokens", "/v1/vms/web-1/screenshot"):
        problem = (await client.get(path, params={"at": at["started"]})).json()
        assert (problem["status"], problem["reason"]) == (409, "LIVE_ONLY"), (path, problem)
    follow = await client.get("/v1/events", params={"at": at["started"], "follow": "true"})
    assert follow.json()["reason"] == "LIVE_ONLY"
    assert (await world.bare().get("/v1/vms", params={"at": 1})).status_code == 401


async def test_events_end_where_the_moment_is(world: Rig) -> None:
    at, client = await live(world), await world.client()
    items = (await client.get("/v1/events", params={"at": at["asked"], "after": at["other"] - 1})).json()["items"]
    assert [item["position"] for item in items] == [at["other"], at["asked"]]


async def test_a_difference_says_what_who_and_because_of_what(world: Rig) -> None:
    at, client = await live(world), await world.client()
    answer = (await client.get("/v1/diff", params={"from": at["other"], "to": at["gone"]})).json()
    assert (answer["from"]["position"], answer["to"]["position"]) == (at["other"], at["gone"])
    by_object = {change["object"]: change for change in answer["changes"]}
    assert {name: change["what"] for name, change in by_object.items()} == {
        "vm/web-1": "changed", "vm/db-1": "removed", "node/n1": "changed",
    }  # fmt: skip
    fields = {field["name"]: (field["before"], field["after"]) for field in by_object["vm/web-1"]["fields"]}
    assert fields["state"] == ("stopped", "running") and fields["node"] == ("", "n1")
    (root,) = by_object["vm/web-1"]["because"]
    assert (root["asked_by"], root["task"], root["position"], root["events"]) == ("user:ann", "t-start", at["asked"], 2)
    assert by_object["node/n1"]["because"][0]["actor"] == "user:eve" and "a fan" in by_object["node/n1"]["because"][0]["sentence"]
    assert (await client.get("/v1/diff", params={"from": at["gone"]})).json()["changes"] == []
    problem = (await client.get("/v1/diff", params={"from": at["gone"], "to": at["other"]})).json()
    assert (problem["reason"], problem["field"]) == ("BAD_MOMENT", "from")


async def test_a_life_is_told_line_by_line(world: Rig) -> None:
    at, client = await live(world), await world.client()
    told = (await client.get("/v1/timeline/vm/web-1")).json()
    lines = [(item["position"], item["asked_by"]) for item in told["items"]]
    assert lines == [(at["defined"], "user:ann"), (at["asked"], "user:ann"), (at["started"], "user:ann")]
    assert "placed on n1" in told["items"][1]["sentence"] and told["older"] == 0
    assert [item["type"] for item in (await client.get("/v1/timeline/node/n1")).json()["items"]][-1] == "node_cordoned"
    gone = (await client.get("/v1/timeline/vm/db-1")).json()
    assert gone["items"][-1]["type"] == "vm_deleted", "what is gone has its life still"
    early = (await client.get("/v1/timeline/vm/web-1", params={"at": at["asked"]})).json()
    assert [item["position"] for item in early["items"]] == [at["defined"], at["asked"]]
    assert (await client.get("/v1/timeline/tea/cup")).status_code == 404


async def test_a_state_of_the_past_is_not_moved_by_what_comes(world: Rig) -> None:
    at, client = await live(world), await world.client()
    before = (await client.get("/v1/vms/web-1", params={"at": at["started"]})).json()
    stopped = c.VmStopped(vm="web-1", node="n1", generation=1, cause=c.GoneCause.GUEST, sentence="it shut down")  # type: ignore[arg-type]
    await world.tell("vm-web-1", [stopped])
    assert (await client.get("/v1/vms/web-1", params={"at": at["started"]})).json() == before
    assert msgspec.json.encode(before) and before["state"] == "running"


async def test_a_refusal_of_then_is_found_behind_many_later_ones(world: Rig) -> None:
    await live(world)
    no = Reply(status="refused", reason="NO_NODE_FITS", sentence="no node fits", stream="vm-db-2")
    start = msgspec.Raw(encode(c.StartVm(vm="db-2")))
    await world.tell("vm-db-2", [defined("db-2")], by("user:ann", "t-db-2"))
    await world.tell("vm-db-2", [], Envelope(id="first", data=start, actor="user:ann"), no)
    at = await world.tell("node-n1", [c.NodeUncordoned(node="n1")])  # type: ignore[arg-type]
    later = msgspec.structs.replace(no, sentence="something else")
    for n in range(30):
        await world.tell("vm-db-2", [], Envelope(id=f"later-{n}", data=start, actor="user:ann"), later)
    client = await world.client()
    then = (await client.get("/v1/why-not/vm/db-2", params={"started": "true", "at": at})).json()
    assert then["sentence"] == "its start was refused: no node fits"
    now = (await client.get("/v1/why-not/vm/db-2", params={"started": "true"})).json()
    assert now["sentence"] == "its start was refused: something else"
