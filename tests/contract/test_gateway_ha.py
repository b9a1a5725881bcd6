"""`/v1/ha` and `asvctl ha`: how nodes stand, and what people may say about them."""

from __future__ import annotations

import asyncio
import json

import pytest

from libs.common.bus import Incoming
from libs.common.decider import Refused
from libs.common.messages import Envelope, Event, NodeId, encode
from proto.compute import NodeJoined
from proto.haview import HaShown, NodeStanding
from proto.lease import (
    ArmHa,
    ConfirmOff,
    DisarmHa,
    HaArmed,
    HaDisarmed,
    HaHeld,
    HaSet,
    HaSettings,
    NodeIsolated,
    NodeLost,
    NodePathsNoted,
    NodeReturned,
    Proof,
    ProofKind,
    Refusal,
    SetHa,
    Sign,
    Silence,
    TermBegan,
)
from services.cli.main import run
from tests.contract.gateway_rig import UNREAD, Rig

N1 = NodeId("n1")
S = 1_000_000
T = 1_700_000_000 * S
proof = Proof(kind=ProofKind.LEASE, at_us=1, sentence="its last sign of life was 5.60 s ago")
lost = NodeLost(node=N1, boot_id="b", epoch=1, at_us=T, proof=proof)
silence = Silence(path=Sign.CONTROL, since_us=1, for_us=3 * S, sentence="it has asked for no lease for 3.1 s")


async def told(world: Rig, stream: str, *events: Event) -> None:
    await world.gateway.follower.reach(await world.tell(stream, list(events)) + len(events) - 1, 5.0)


async def joined(world: Rig) -> None:
    for name in ("n1", "n2"):
        await told(world, f"node-{name}", NodeJoined(node=NodeId(name), key=f"k-{name}"))


async def serve(world: Rig) -> None:
    async def answer(message: Incoming) -> None:
        nodes = (
            NodeStanding(
                node="n1", standing="trusted", epoch=2, granted=True, control_us=T - 400_000, storage_us={"p": T - 900_000},
                beat_us=T - 300_000, own="held", left_us=4_600_000, watched=True, pools=("p",),
            ),
            NodeStanding(node="n2", standing="lost", since_us=T - 9 * S, sentence="its lease is spent", epoch=1),
        )  # fmt: skip
        shown = HaShown(at_us=T, settings=HaSettings(), armed=True, term=3, holder="ha-1.1", term_us=T - 60 * S, nodes=nodes)
        await message.respond(encode(shown))

    await world.bus.serve("query.ha.standing", answer)


async def test_how_nodes_stand_is_asked_of_ha(world: Rig) -> None:
    await joined(world)
    await serve(world)
    found = (await (await world.client("viewer")).get("/v1/ha")).json()
    n1, n2 = found["nodes"]
    assert (found["term"], found["holder"], found["armed"], found["heard"]) == (3, "ha-1.1", True, True)
    assert (n1["control_s"], n1["storage_s"], n1["left_s"], n1["own"]) == (0.4, {"p": 0.9}, 4.6, "held")
    assert (n2["standing"], n2["control_s"]) == ("lost", -1.0)
    assert found["settings"] == {
        "tolerant": False, "isolated": "evacuate", "isolated_s": 3.0, "reserve": "nodes", "reserve_nodes": 1, "reserve_pct": 0,
        "lost_max": 2, "window_s": 300.0, "starts_max": 16, "relax_apart": True, "unlinked": "alarm",
    }  # fmt: skip


async def test_while_ha_is_away_the_log_is_shown(world: Rig) -> None:
    await joined(world)
    await told(world, "ha-main", TermBegan(term=4, holder="ha-2.1", at_us=T), HaSet(settings=HaSettings(tolerant=True)))
    await told(world, "lease-n1", lost)
    found = (await (await world.client("viewer")).get("/v1/ha")).json()
    assert (found["heard"], found["term"], found["settings"]["tolerant"]) == (False, 4, True)
    assert [(n["name"], n["standing"]) for n in found["nodes"]] == [("n1", "lost"), ("n2", "trusted")]


async def test_what_is_to_be_looked_at(world: Rig) -> None:
    await joined(world)
    viewer = await world.client("viewer")
    assert (await viewer.get("/v1/alerts")).json()["items"] == []
    await told(world, "lease-n1", NodeIsolated(node=N1, at_us=T, silences=(silence,), letter=1))
    await told(world, "lease-n2", NodePathsNoted(node=NodeId("n2"), at_us=T + 1, pools=("p",), networks=("bond0 is down",)))
    await told(world, "ha-main", HaHeld(sentence="of 5 nodes 1 are heard", remedy="look at them"))
    kinds = {a["kind"]: a for a in (await viewer.get("/v1/alerts")).json()["items"]}
    assert set(kinds) == {"node-isolated", "node-paths", "ha-held"}
    assert "were asked for" in kinds["node-isolated"]["sentence"] and "bond0" in kinds["node-paths"]["sentence"]
    assert (await viewer.get("/v1/nodes/n1")).json()["standing"] == "isolated"

    await told(world, "lease-n1", lost)
    assert {a["kind"] for a in (await viewer.get("/v1/alerts")).json()["items"]} == {"node-lost", "node-paths", "ha-held"}
    await told(world, "lease-n1", NodeReturned(node=N1, boot_id="b", epoch=2))
    assert (await viewer.get("/v1/nodes/n1")).json()["standing"] == ""


async def test_settings_are_set_and_bad_ones_are_named(world: Rig) -> None:
    world.ha.rules[SetHa] = lambda c: [HaSet(settings=HaSettings(lost_max=c.lost_max))]
    admin = await world.client("admin")
    done = await admin.put("/v1/ha", json={"lost_max": 3})
    assert done.status_code == 202, done.text
    (_, heard), *_ = world.ha.heard
    assert heard == SetHa(lost_max=3)
    task = (await admin.get(f"/v1/tasks/{done.json()['task']}")).json()
    assert (task["kind"], task["state"]) == ("ha", "done")
    for body, field in (({"lost_max": 0}, "lost_max"), ({"isolated": "kill"}, "isolated"), ({"quick": True}, "quick")):
        answer = await admin.put("/v1/ha", json=body)
        assert (answer.status_code, answer.json()["field"]) == (400, field), answer.text
    assert (await (await world.client("operator")).put("/v1/ha", json={"lost_max": 3})).status_code == 403


async def test_disarmed_for_a_while_and_armed(world: Rig) -> None:
    world.ha.rules[DisarmHa] = lambda c: [HaDisarmed(reason=c.reason, until_us=c.until_us)]
    world.ha.rules[ArmHa] = lambda _: [HaArmed(at_us=T)]
    admin = await world.client("admin")
    assert (await admin.post("/v1/ha/disarm", json={"reason": "a switch is changed", "for_s": 3600})).status_code == 202
    (_, heard), *_ = world.ha.heard
    assert isinstance(heard, DisarmHa) and abs(heard.until_us - world.clock.now_us() - 3600 * S) < 60 * S
    (alert,) = (await admin.get("/v1/alerts")).json()["items"]
    assert alert["kind"] == "ha-disarmed" and "switch" in alert["sentence"]
    assert (await admin.post("/v1/ha/disarm", json={"reason": ""})).status_code == 400
    assert (await admin.post("/v1/ha/arm")).status_code == 202
    assert (await admin.get("/v1/alerts")).json()["items"] == []


async def test_a_nodes_end_is_confirmed_and_refused_where_it_lives(world: Rig) -> None:
    await joined(world)
    word = Proof(kind=ProofKind.OPERATOR, at_us=1, sentence="an operator says that it is off")

    def decide(command: ConfirmOff) -> list[Event]:
        if command.reason == "guess":
            raise Refused(Refusal.NODE_ALIVE, "n1 is not off: it asked for its lease 0.4 s ago", "switch it off first")
        return [NodeLost(node=N1, boot_id="b", epoch=1, at_us=T, proof=word)]

    world.ha.rules[ConfirmOff] = decide
    admin = await world.client("admin")
    refused = await admin.post("/v1/nodes/n1/confirm-off", json={"reason": "guess"})
    assert (refused.status_code, refused.json()["reason"]) == (409, "NODE_ALIVE")
    assert (await admin.post("/v1/nodes/n9/confirm-off", json={"reason": "burnt"})).status_code == 404
    done = await admin.post("/v1/nodes/n1/confirm-off", json={"reason": "burnt"})
    assert done.status_code == 202
    task = (await admin.get(f"/v1/tasks/{done.json()['task']}")).json()
    assert (task["kind"], task["object"], task["state"]) == ("confirm-off", "n1", "done")


async def test_what_was_concluded_without_anybody_is_no_task(world: Rig) -> None:
    await joined(world)
    await world.tell("lease-n1", [lost], Envelope(id="tick", data=UNREAD, actor="service:ha"))
    assert "confirm-off" not in {t["kind"] for t in (await (await world.client("viewer")).get("/v1/tasks")).json()["items"]}


async def test_asvctl_shows_and_sets(world: Rig, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    await joined(world)
    await serve(world)
    world.ha.rules[SetHa] = lambda c: [HaSet(settings=HaSettings(tolerant=True))]
    token = (await world.client("admin")).headers["authorization"].removeprefix("Bearer ")
    monkeypatch.setenv("ASV_API", world.url)
    monkeypatch.setenv("ASV_TOKEN", token)
    assert await asyncio.to_thread(run, ("ha", "status")) == 0
    out = capfd.readouterr().out
    assert "armed" in out and "ha-1.1, term 3" in out and "for the VMs of 1 lost node" in out
    n1, n2 = (line for line in out.splitlines() if line.startswith(("n1", "n2")))
    assert "0.4 s ago" in n1 and "held, 4.6 s left" in n1 and "its lease is spent" in n2
    assert await asyncio.to_thread(run, ("ha", "status", "--json")) == 0
    assert json.loads(capfd.readouterr().out)["term"] == 3
    assert await asyncio.to_thread(run, ("ha", "set", "--tolerant")) == 0
    assert world.ha.heard[-1][1] == SetHa(tolerant=True)
    assert await asyncio.to_thread(run, ("ha", "disarm")) == 2, "a reason is to be given"
