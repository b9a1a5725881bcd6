"""Fence devices in the HTTP API: passwords come in and never out, admins alone change, what proves nothing is an alert."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from libs.common.decider import Refused
from libs.common.messages import NodeId, encode
from libs.common.secrets import Keys, MemorySecrets
from proto import compute as c
from proto import fence as f
from tests.contract.gateway_rig import Rig, problem, rig

N1 = NodeId("n1")
PASSWORD = "s3cret, of all"
BMC = {"kind": "redfish", "address": "https://bmc1", "user": "asv", "password": PASSWORD}
AT = "/v1/ha/fences"


@pytest.fixture
async def secrets(tmp_path: Path) -> MemorySecrets:
    return MemorySecrets(Keys.create(tmp_path / "secrets.key"))


@pytest.fixture
async def world(tmp_path: Path, secrets: MemorySecrets) -> AsyncIterator[Rig]:
    async with rig(tmp_path, secrets=secrets) as made:
        await made.tell("node-n1", [c.NodeJoined(node=N1, key="U1")])
        made.ha.rules[f.SetFence] = lambda command: [f.FenceSet(node=N1, device=command.device)]
        made.ha.rules[f.TestFence] = lambda _: [f.FenceTestRequested(node=N1, number=2)]
        made.ha.rules[f.RemoveFence] = lambda _: [f.FenceRemoved(node=N1)]
        yield made


async def task(client: Any, answer: Any) -> tuple[str, str, str]:
    assert answer.status_code == 202, answer.text
    found = (await client.get(f"/v1/tasks/{answer.json()['task']}")).json()
    return found["kind"], found["state"], found["sentence"]


async def test_a_device_is_set_tested_and_shown_without_its_password(world: Rig, secrets: MemorySecrets) -> None:
    admin, viewer = await world.client("admin"), await world.client("viewer")
    problem(await viewer.get(f"{AT}/n1"), 404)
    problem(await viewer.get(f"{AT}/n9"), 404)
    answer = await admin.post(f"{AT}/n1", json=BMC)
    assert (await task(admin, answer))[:2] == ("set-fence", "running")
    (command,) = [command for _, command in world.ha.heard]
    assert isinstance(command, f.SetFence) and command.device.password is not None
    assert (await secrets.get(command.device.password)).decode() == PASSWORD
    tested = f.FenceTested(node=N1, number=1, ok=True, at_us=7, power=f.Power.ON, identity="uuid 1111")
    await world.tell("fence-n1", [tested])
    await world.gateway.follower.catch_up()
    assert (await task(admin, answer))[1] == "done"
    shown = (await viewer.get(f"{AT}/n1")).json()
    assert (shown["state"], shown["power"], shown["identity"], shown["user"]) == ("ready", "on", "uuid 1111", "asv")
    listed = await viewer.get(AT)
    assert [one["node"] for one in listed.json()["items"]] == ["n1"]
    (stands,) = (await viewer.get("/v1/ha")).json()["nodes"]
    assert (stands["name"], stands["fence"]) == ("n1", "ready")
    ref = command.device.password.ref
    everything = listed.text + str(shown) + str([encode(one) for one in await world.log.read_all(0)])
    assert PASSWORD not in everything and ref not in listed.text + str(shown)


async def test_a_password_that_no_device_has_any_more_is_forgotten(world: Rig, secrets: MemorySecrets) -> None:
    admin = await world.client("admin")
    for password in ("one", "two"):
        assert (await admin.post(f"{AT}/n1", json=BMC | {"password": password})).status_code == 202
    assert len(secrets.rows) == 1

    def no(command: f.SetFence) -> list[f.FenceSet]:
        raise Refused(f.Refusal.SAME_DEVICE, "it is the fence device of n2 already", "name that of n1")

    world.ha.rules[f.SetFence] = no
    problem(await admin.post(f"{AT}/n1", json=BMC | {"password": "three"}), 409, "SAME_DEVICE")
    assert len(secrets.rows) == 1
    (kept,) = secrets.rows
    assert world.gateway.model.fences.all["n1"].secret == kept
    assert (await admin.delete(f"{AT}/n1")).status_code == 202
    assert not secrets.rows


async def test_a_request_that_is_repeated_keeps_the_password_that_the_log_names(world: Rig, secrets: MemorySecrets) -> None:
    admin = await world.client("admin")
    for _ in range(2):
        answer = await admin.post(f"{AT}/n1", json=BMC, headers={"Idempotency-Key": "again"})
        assert answer.status_code == 202
    assert list(secrets.rows) == [world.gateway.model.fences.all["n1"].secret]


async def test_who_may(world: Rig) -> None:
    for client in (await world.client("operator"), await world.client("admin", ("web",))):
        problem(await client.post(f"{AT}/n1", json=BMC), 403)
        for verb in ("test", "off", "on"):
            problem(await client.post(f"{AT}/n1/{verb}", json={} if verb == "off" else None), 403)
        problem(await client.delete(f"{AT}/n1"), 403)


@pytest.mark.parametrize(
    "wrong", [{"kind": "ilo"}, {"call_s": 0}, {"call_s": 99}, {"cipher": 42}, {"address": "a\nb"}, {"more": 1}, {"user": 7}]
)
async def test_what_is_no_device_is_told_before_anybody_is_asked(world: Rig, wrong: dict[str, Any]) -> None:
    problem(await (await world.client("admin")).post(f"{AT}/n1", json=BMC | wrong), 400)
    assert not world.ha.heard


async def test_without_a_key_file_no_password_is_taken(tmp_path: Path) -> None:
    async with rig(tmp_path) as made:
        admin = await made.client("admin")
        told = problem(await admin.post(f"{AT}/n1", json=BMC), 503)
        assert "ASV_SECRETS_KEY" in str(told)


async def test_devices_that_prove_nothing_are_alerts_until_they_are_mended(world: Rig) -> None:
    admin = await world.client("admin")
    await admin.post(f"{AT}/n1", json=BMC)
    said = "the device does not take the user asv with that password"
    failed = f.FenceTested(node=N1, number=1, ok=False, at_us=7, sentence=said, remedy="set it with the right ones")
    await world.tell("fence-n1", [failed])
    await world.gateway.follower.catch_up()
    (alert,) = (await admin.get("/v1/alerts")).json()["items"]
    assert (alert["kind"], alert["object"]) == ("fence-device", "node/n1") and said in alert["sentence"] and alert["remedy"]
    await world.tell("fence-n1", [f.FenceTested(node=N1, number=1, ok=True, at_us=8, power=f.Power.ON, identity="m")])
    await world.gateway.follower.catch_up()
    assert (await admin.get("/v1/alerts")).json()["items"] == []
    await world.tell("fence-n1", [f.FenceDoubted(node=N1, at_us=9, sentence="n1 was heard after")])
    await world.gateway.follower.catch_up()
    (alert,) = (await admin.get("/v1/alerts")).json()["items"]
    assert "was heard after" in alert["sentence"] and "fence test n1" in alert["remedy"]


async def test_a_node_is_cut_and_switched_on(world: Rig) -> None:
    admin = await world.client("admin")
    await admin.post(f"{AT}/n1", json=BMC)

    def asked(want: f.Want, attempt: int) -> list[f.FenceRequested]:
        return [f.FenceRequested(node=N1, attempt=attempt, want=want, at_us=1, identity="m", apart_ms=250)]

    world.ha.rules[f.FenceNode] = lambda _: asked(f.Want.OFF, 1)
    world.ha.rules[f.PowerOnNode] = lambda _: asked(f.Want.ON, 2)
    off = await admin.post(f"{AT}/n1/off", json={"reason": "it hangs"})
    assert (await task(admin, off))[:2] == ("fence", "running")
    once = f.FenceFailed(node=N1, attempt=1, want=f.Want.OFF, tries=1, at_us=2, sentence="no answer in time", next_at_us=3)
    confirmed = f.FenceConfirmed(
        node=N1, attempt=1, epoch=1, boot_id="b", at_us=4, ordered=f.Ordered.TAKEN, identity="m", reads=(), sentence="twice"
    )
    await world.tell("fence-n1", [once, confirmed])
    await world.gateway.follower.catch_up()
    assert await task(admin, off) == ("fence", "done", "n1 is off: twice")
    assert (await admin.get(f"{AT}/n1")).json()["state"] == "off"
    on = await admin.post(f"{AT}/n1/on")
    failed = f.FenceFailed(node=N1, attempt=2, want=f.Want.ON, tries=3, at_us=5, sentence="no answer in time", last=True)
    await world.tell("fence-n1", [failed])
    await world.gateway.follower.catch_up()
    assert await task(admin, on) == ("power-on", "failed", "n1 is not known to be on: no answer in time")
    assert world.ha.heard[1][1] == f.FenceNode(node="n1", reason="it hangs")
