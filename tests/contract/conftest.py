"""Fixtures over real servers, shared by the contract suites."""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path

import pytest

from services.node.drivers.qemu.driver import QemuDriver
from tests.contract.canned_gateway import Canned, canned_gateway
from tests.contract.cli_rig import Ctl, here
from tests.contract.databases import fresh
from tests.contract.driver_account import account
from tests.contract.driver_rigs import QemuRig
from tests.contract.gateway_rig import Rig, rig
from tests.servers import Postgres


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server for the whole run: unix socket, fsync on."""
    with Postgres() as server:
        yield server


@pytest.fixture
async def database(postgres: Postgres) -> AsyncIterator[str]:
    """The name of a fresh, migrated database on `postgres`; dropped afterwards."""
    async with fresh(postgres) as name:
        yield name


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[Rig]:
    """A gateway over the logs and buses in memory."""
    async with rig(tmp_path / "pool") as made:
        yield made


@pytest.fixture
def gateway() -> Iterator[Canned]:
    """What asvctl asks in the tests of it."""
    with canned_gateway() as canned:
        yield canned


@pytest.fixture
def ctl(gateway: Canned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Ctl:
    """Runs asvctl in this process, as admin."""
    monkeypatch.setenv("COLUMNS", "200")
    return here(monkeypatch, capfd, tmp_path / "nowhere", gateway.api, "admin")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed test with real VMs comes with what is to be known of these."""
    report = yield
    given = getattr(item, "funcargs", {})
    if report.failed and report.when == "call" and isinstance(rigged := given.get("rig"), QemuRig):
        drivers = [one for one in given.values() if isinstance(one, QemuDriver)]
        report.sections += list(account(rigged.top, drivers))
    return report
