"""The ladder's last rungs on the real thing but for the guests: Postgres, NATS, all services, relay, gateway and two agents. A node
is suddenly out of memory: a best-effort VM moves away, another stands still and goes on later, a critical one loses nothing.

Guests are simulated here: a real node can get so short only where guests take memory faster than others give it, within the last
16 % of minFree before its kernel kills, which no test can aim at."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from services.gateway.auth import Role
from services.gateway.tokens import new_token
from services.node.drivers.simparams import SimParams
from tests.contract.cli_rig import beside, here
from tests.contract.lab_rig import Lab, lab
from tests.contract.test_cli_gateway import Ctl
from tests.servers import NatsServer, Postgres

WAIT_S_MAX = 90.0
QUICK = SimParams(
    memory_mib=16_384, balloon=True, pcpus=64, start_us=20_000, jitter_us=1, boot_us=20_000, shutdown_us=20_000, move_us=500_000
)
VMS = {"db": ("11GiB", "critical"), "large": ("4GiB", "best-effort"), "small": ("1GiB", "best-effort")}


@pytest.fixture
async def world(postgres: Postgres, database: str, tmp_path: Path) -> AsyncIterator[Lab]:
    with NatsServer() as nats:
        async with lab(postgres.dsn(database), nats.url, tmp_path, {"n1": QUICK, "n2": QUICK}) as made:
            yield made


@pytest.fixture
async def ctl(world: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Ctl:
    row, token = new_token("root", Role.ADMIN, ("*",), 0)
    await world.tokens.add(row)
    return beside(here(monkeypatch, capfd, tmp_path, world.url, token))


async def until(look: Callable[[], Awaitable[bool]], what: str) -> None:
    end = asyncio.get_running_loop().time() + WAIT_S_MAX
    while not await look():
        assert asyncio.get_running_loop().time() < end, f"waited {WAIT_S_MAX} s for {what}"
        await asyncio.sleep(0.1)


@pytest.mark.timeout(180)
async def test_one_moves_away_another_stands_still_and_goes_on(world: Lab, ctl: Ctl) -> None:
    here, there = world.drivers["n1"], world.drivers["n2"]

    async def heard() -> bool:
        return all(node["online"] for node in (await ctl("node", "ls", "--json")).json)

    await until(heard, "both nodes")
    assert (await ctl("node", "cordon", "n2", "--wait")).code == 0
    for vm, (size, priority) in VMS.items():
        here.memory.demand_mib[vm] = 256
        assert (await ctl("vm", "create", vm, "--memory", size, "--priority", priority, "--no-start", "--wait")).code == 0

        async def starts(vm: str = vm) -> bool:
            return (await ctl("vm", "start", vm, "--wait")).code == 0

        await until(starts, "compute to have heard of n1, too")
    assert (await ctl("node", "uncordon", "n2", "--wait")).code == 0

    async def state(vm: str) -> str:
        return str((await ctl("vm", "show", vm, "--json")).json["state"])

    for vm in VMS:  # all of them need all they have, at once
        here.memory.demand_mib[vm] = there.memory.demand_mib[vm] = 16_384

    async def seen(kind: str) -> list[str]:
        return [row.stream.removeprefix("vm-") for row in await world.log.read_all(0, 1000) if row.type == kind]

    async def last_rungs() -> bool:
        return bool(await seen("vm_paused") and await seen("vm_migration_ended"))

    await until(last_rungs, "one to have moved and one to stand still")

    async def again() -> bool:
        paused, resumed = await seen("vm_paused"), await seen("vm_resumed")
        return len(paused) == len(resumed) and [await state(vm) for vm in VMS] == ["running"] * len(VMS)

    await until(again, "all to go on, here or there, once there is memory for them")
    stilled, moved = (await seen("vm_paused"))[0], (await seen("vm_migration_ended"))[0]
    where = {vm: host.vms[vm] for host in (here.host, there.host) for vm in host.vms}
    assert {vm: machine.status for vm, machine in where.items()} == dict.fromkeys(VMS, "running")
    assert "db" in here.host.vms and not here.host.vms["db"].balloon_mib, "critical"

    story = (await ctl("why", f"vm/{stilled}", "--last", "0")).out
    order = ("stand still until there is memory again", "a pause was ordered", "seen paused")
    places = [story.index(words) for words in (*order, "it was ordered to go on", "seen running again")]
    assert places == sorted(places), story
    story = (await ctl("why", f"vm/{moved}", "--last", "0")).out
    places = [story.index(words) for words in ("should run elsewhere: n1 has", "to be migrated from n1 to n2", "go on")]
    assert places == sorted(places), story
    said = await ctl("why-not", "vm/db", "--reclaimed")
    assert "db is critical: all its 11264 MiB are reserved" in said.out
    assert "n1 is short of memory (low:" in (await ctl("why", "node/n1", "--last", "0")).out
    assert (await ctl("memory", "prove", "--json")).json["holds"]
