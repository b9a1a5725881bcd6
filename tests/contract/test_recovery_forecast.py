"""A recovery's forecast, risk and grade through all but the guests: Postgres, NATS, services, relay, gateway, an agent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from services.gateway.auth import Role
from services.gateway.tokens import new_token
from services.node.drivers.simbackups import NORMAL
from services.node.drivers.simhome import SLOWER
from services.node.drivers.simparams import SimParams
from tests.contract.cli_rig import beside, here
from tests.contract.lab_rig import Lab, lab
from tests.contract.test_cli_gateway import Ctl
from tests.contract.test_cli_recovered import done
from tests.servers import NatsServer, Postgres

HOME_S, LONG_S = 14, 3000
QUICK = SimParams(start_us=20_000, jitter_us=1, boot_us=20_000, backup_us=20_000, home_us=HOME_S * 1_000_000)


@pytest.fixture
async def world(postgres: Postgres, database: str, tmp_path: Path) -> AsyncIterator[Lab]:
    with NatsServer() as nats:
        async with lab(postgres.dsn(database), nats.url, tmp_path, {"n1": QUICK}) as made:
            yield made


@pytest.fixture
async def ctl(world: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Ctl:
    row, token = new_token("root", Role.ADMIN, ("*",), 0)
    await world.tokens.add(row)
    return beside(here(monkeypatch, capfd, tmp_path, world.url, token))


async def recovered(ctl: Ctl, name: str, key: str) -> dict[str, Any]:
    """The recovery of that name, once it has this."""
    async with asyncio.timeout(60):
        while True:
            found = [one["recovery"] for one in (await ctl("recovery", "ls", "--json")).json]
            for one in found:
                if one["target"] == name and one.get(key):
                    return dict(one)
            await asyncio.sleep(0.1)


@pytest.mark.timeout(150)
async def test_it_is_forecast_and_graded_and_what_would_be_late_is_told_before(world: Lab, ctl: Ctl) -> None:
    await done(ctl, "vm", "create", "web-1", "--memory", "128MiB", "--disk", "8192MiB")
    await done(ctl, "backup", "create", "web-1", "--pool", "default")
    await done(ctl, "vm", "recover", "web-1", "--as", "web-2")
    one = await recovered(ctl, "web-2", "ended_us")
    first = one["curve"][0]
    assert abs(first["forecast_us"] - one["independent_us"]) < 4_000_000, "it was known five seconds after it began"
    assert one["independent_us"] - first["at_us"] > 5_000_000 and [point["percent"] // 25 for point in one["curve"]][1:] == [2, 3]
    assert (first["write_us"], first["times"]) == (round(NORMAL.write_us * SLOWER), SLOWER)
    grade = one["grade"]
    assert (grade["met"], grade["worst_times"], grade["forecast_us"]) == (True, SLOWER, first["forecast_us"]) and not one["risks"]
    shown = (await ctl("recovery", "show", one["id"])).out
    assert "forecast made" in shown and "TIMES NORMAL" in shown and "met: ran after" in shown
    assert "it is to be as fast as ever at" in (await ctl("why", f"backup/web-1/{one['backup']}")).out

    world.drivers["n1"].host.params = replace(QUICK, home_us=LONG_S * 1_000_000)
    await done(ctl, "vm", "recover", "web-1", "--as", "web-3")
    late = await recovered(ctl, "web-3", "risks")
    (risk,) = late["risks"]
    assert risk["limit"] == "normal" and risk["due_us"] == late["requested_us"] + 900_000_000
    assert risk["at_us"] - late["requested_us"] < 30_000_000, "a quarter of an hour before it is late"
    told = (await ctl("alerts")).out
    assert "recovery-at-risk" in told and "web-3 will be as fast as ever at" in told
