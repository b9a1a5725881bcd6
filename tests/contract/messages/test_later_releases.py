"""A log that a later release wrote: the owner of a stream that it cannot read stops, and says which release can; others go on."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from libs.common.bus.nats import NatsBus
from libs.common.log import CommandRow, Group, NewEvent, Unit
from libs.common.log.postgres import PostgresLog
from libs.common.messages import Meta, encode
from proto.compute import DefineVm
from proto.services import SERVICES
from tests.contract.control_rig import Control, ask
from tests.contract.messages.settings import Given
from tests.servers import NatsServer, Postgres

OWN = {"compute": "vm-a", "memory": "ledger-n1", "io": "pool-fast", "ha": "fence-n1"}
FINALIZED = Given("cluster-main", "cluster_finalized", 1, {"protocol": 9})


def unit(given: Given, expected: int = 0) -> Unit:
    meta = encode(Meta("later", "", "later", "user:later", 0))
    news = (NewEvent(given.type, given.v, encode({"type": given.type} | given.body), meta),)
    return Unit(given.stream, expected, news, CommandRow(f"later-{given.stream}-{expected}", b"\x80", b"\x80"))


@pytest.mark.parametrize("finalized", [True, False])
@pytest.mark.parametrize("name", SERVICES)
async def test_an_owner_does_not_begin_on_what_it_cannot_read(
    postgres: Postgres, database: str, tmp_path: Path, name: str, finalized: bool
) -> None:
    log = await PostgresLog.open(postgres.dsn(database))
    before = (unit(FINALIZED),) if finalized else ()
    await log.append(Group((*before, unit(Given(OWN[name], "of_tomorrow", 1, {})))))
    head = await log.head()
    with NatsServer() as nats:
        control = Control([name], postgres.dsn(database), nats.url, tmp_path)
        with pytest.raises(AssertionError):
            await control.start()
        assert await control.ended() == 1
    said = control.log.read_text()
    assert f"{OWN[name]} holds of_tomorrow.v1 at position {head.position}" in said and "Traceback" not in said
    assert ("run one that speaks 9" if finalized else "Run the release that wrote it") in said
    assert (await log.head()).position == head.position, "nothing was written"
    await log.close()


async def test_an_owner_that_meets_it_stops_and_others_go_on(postgres: Postgres, database: str, tmp_path: Path) -> None:
    log = await PostgresLog.open(postgres.dsn(database))
    with NatsServer() as nats:
        others = Control(["compute", "io", "relay"], postgres.dsn(database), nats.url, tmp_path)
        await others.start()
        owner = Control(["memory"], postgres.dsn(database), nats.url, tmp_path)
        await owner.start()
        bus = await NatsBus.connect(nats.url, name="asker")
        await ask(bus, "cmd.compute.vm-a", DefineVm(vm="a"), "before")
        await log.append(Group((unit(Given(OWN["memory"], "of_tomorrow", 1, {})),)))
        assert await owner.ended() == 1
        assert "memory: ledger-n1 holds of_tomorrow.v1" in owner.log.read_text()
        assert (await ask(bus, "cmd.compute.vm-b", DefineVm(vm="b"), "after")).status == "accepted"
        await bus.drain()
        assert await others.end(signal.SIGTERM) == 0
    await log.close()
