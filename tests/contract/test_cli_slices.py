"""`asvctl log export` from a live database, and `log import` into a new one: what goes out, what comes in, what is refused."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import pytest
from msgspec.structs import replace

from libs.common.log.migrate import migrate
from libs.common.log.refill import refill
from libs.common.log.rows import Row
from libs.common.messages import Recorded, encode
from libs.past.aslog import Aslog, aslog, packed, read, write
from libs.past.source import Decided
from proto.compute import DefineVm
from proto.services import SERVICES
from services.host.replay.app import main as replay_main
from services.host.slices.app import main
from tests.contract.cli_rig import Ctl, Said
from tests.contract.control_rig import Control, ask
from tests.model.test_slices import story
from tests.servers import NatsServer, Postgres

DATABASES = ("asv_sliced", "asv_scratch")
VM = "payroll-db"
STORY = story().read_all_now(0, 10_000)


async def _make(postgres: Postgres) -> None:
    admin = await asyncpg.connect(postgres.dsn())
    for name in DATABASES:
        await admin.execute(f"create database {name}")
    await admin.close()
    kept = story().commands_now().items()
    rows = [Row(one.answer.position, one.at_us, id, one.stream, one.payload, one.answer.outcome) for id, one in kept]
    await refill(postgres.dsn(DATABASES[0]), STORY, rows, 1, ())


async def _drop(postgres: Postgres) -> None:
    admin = await asyncpg.connect(postgres.dsn())
    for name in DATABASES:
        await admin.execute(f"drop database {name} with (force)")
    await admin.close()


async def _rows(dsn: str) -> Any:
    connection = await asyncpg.connect(dsn)
    try:
        if not await connection.fetchval("select to_regclass('asv.events') is not null"):
            return None
        found = await connection.fetch("select count(*) from asv.events union all select count(*) from asv.commands")
        return tuple(row[0] for row in found)
    finally:
        await connection.close()


@pytest.fixture
def dsn(postgres: Postgres) -> Iterator[str]:
    """Of a log with a story, read by who cannot write it."""
    asyncio.run(_make(postgres))
    yield postgres.dsn(DATABASES[0], "asv_reader")
    asyncio.run(_drop(postgres))


@pytest.fixture
def scratch(dsn: str, postgres: Postgres) -> str:
    """A new database, as its owner."""
    return postgres.dsn(DATABASES[1])


@pytest.fixture
def rows(scratch: str) -> Callable[[], Any]:
    return lambda: asyncio.run(_rows(scratch))


def replays(log: str) -> list[int]:
    """What `asvctl replay` starts, of each service."""
    return [replay_main(["--service", name, "--log", log]) for name in SERVICES]


# --- out --------------------------------------------------------------------------------------------------------------


def test_a_vm_goes_out_and_decides_alike_elsewhere(capfd: pytest.CaptureFixture[str], ctl: Ctl, dsn: str, tmp_path: Path) -> None:
    file, names = tmp_path / "out.aslog", tmp_path / "names.json"
    said = ctl("log", "export", str(file), "--log", dsn, "--vm", VM, "--anonymize", "--names", str(names), "--json")
    assert said.code == 0, said.err
    made = said.json
    assert made["anonymized"] and made["differs"] == {} and sum(made["decided"].values()) == made["commands"]
    content = read(file)
    assert content.header.anonymized and content.header.whole and len(content.events) == made["events"]
    assert VM.encode() not in msgspec.msgpack.encode([msgspec.structs.astuple(event) for event in content.events])
    table = json.loads(names.read_text())
    assert f"vm-{table[VM]}" in {event.stream for event in content.events}
    assert names.stat().st_mode & 0o077 == 0
    assert replays(str(file)) == [0, 0, 0, 0]
    key = tmp_path / "key"
    key.write_bytes(b"of the test".ljust(32))
    same = [tmp_path / "one.aslog", tmp_path / "two.aslog"]
    for one in same:
        assert ctl("log", "export", str(one), "--log", dsn, "--vm", VM, "--anonymize", "--key", str(key)).code == 0
    assert same[0].read_bytes() == same[1].read_bytes() != file.read_bytes()
    said = ctl("replay", "--service", "compute", "--log", str(file))
    assert (said.code, "no difference" in said.out) == (0, True)


def test_windows_are_positions_or_times(ctl: Ctl, dsn: str, tmp_path: Path) -> None:
    numbers = iter(range(100))

    def export(*words: str) -> Said:
        return ctl("log", "export", str(tmp_path / f"{next(numbers)}.aslog"), "--log", dsn, "--json", *words)

    around = export("--around", "40", "--before", "10", "--after", "5").json
    assert (around["first"], around["since"], around["last"] >= 45) == (30, 30, True)
    assert export("--vm", VM, "--from", "20", "--to", "40").json["last"] < len(STORY)
    iso = "2023-11-14T22:13:31+00:00"
    at = export("--to", iso).json
    assert STORY[at["last"] - 1].at_us <= 1_700_000_011_000_000
    whole = export("--node", "n1", "--node", "n2").json
    assert whole["first"] == 1 and whole["last"] == len(STORY)
    for words, said in (
        (("--vm", "nobody-knows"), "holds nothing of vm/nobody-knows"), (("--around", "99999"), "99999 is not in the log"),
        (("--to", "2001-01-01"), "begins later"), (("--around", "soon"), "neither a position nor a time"),
        (("--around", "9", "--to", "10"), "one window"), (("--names", "x"), "for --anonymize"),
    ):  # fmt: skip
        refused = export(*words)
        assert (refused.code, said in refused.err) == (2, True), refused
    assert not (tmp_path / "6.aslog").exists()
    there = tmp_path / "0.aslog"
    assert ctl("log", "export", str(there), "--log", dsn).code == 2, "it is there already"
    assert ctl("log", "export", str(tmp_path / "x.tar"), "--log", dsn).code == 2
    assert ctl("log", "export", str(tmp_path / "y.aslog"), "--log", "postgresql://asv_reader@/none?host=/nowhere").code == 4


def test_a_file_is_asked_as_a_cluster_is(ctl: Ctl, dsn: str, tmp_path: Path) -> None:
    file = tmp_path / "out.aslog"
    assert ctl("log", "export", str(file), "--log", dsn, "--vm", VM).code == 0
    content = read(file)
    defined = next(event.position for event in content.events if event.stream == f"vm-{VM}")

    def asked(*words: str) -> Said:
        return ctl("log", "read", str(file), *words)

    why = asked("why", f"vm/{VM}")
    assert (why.code, f"vm-{VM}: placed on" in why.out, "its memory is granted" in why.out) == (0, True, True), why
    lines = asked("timeline", f"vm/{VM}", "--json").json["items"]
    own = [e.position for e in content.events if e.stream in (f"vm-{VM}", f"devices-{VM}", f"guard-{VM}")]
    assert [line["position"] for line in lines] == own
    assert [vm["state"] for vm in asked("vm", "ls", "--json").json] == ["stopped"]
    assert asked("--", "--at", str(defined - 1), "vm", "ls", "--json").json == []
    assert f"+ vm/{VM}" in asked("diff", "--from", str(defined - 1), "--to", str(defined)).out
    assert (asked("vm", "show", "nobody").code, asked("vm", "start", VM).code) == (3, 2)
    assert asked("--api", "http://127.0.0.1:1", "vm", "ls").code == 2
    bad = tmp_path / "bad.aslog"
    _torn(content, bad)
    assert (ctl("log", "read", str(bad), "vm", "ls").code, ctl("log", "read", "none.aslog", "vm", "ls").code) == (6, 6)


# --- in ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [(), ("--vm", VM), ("--vm", VM, "--anonymize")], ids=["whole", "vm", "anonymized"])
def test_it_comes_in_as_it_went_out(
    ctl: Ctl, dsn: str, scratch: str, postgres: Postgres, tmp_path: Path, words: tuple[str, ...]
) -> None:
    file, again = tmp_path / "out.aslog", tmp_path / "again.aslog"
    assert ctl("log", "export", str(file), "--log", dsn, *words).code == 0
    said = ctl("log", "import", str(file), "--log", scratch)
    assert said.code == 0, said.err
    reader = postgres.dsn(DATABASES[1], "asv_reader")
    verified = ctl("log", "verify", "--log", reader, "--json")
    assert (verified.code, verified.json["holds"]) == (0, True), verified.out
    assert replays(reader) == [0, 0, 0, 0]
    assert ctl("log", "export", str(again), "--log", reader).code == 0
    out, back = read(file), read(again)
    assert (back.events, back.commands) == (out.events, out.commands)
    assert (back.header.incarnation, back.header.at_us) == (out.header.incarnation, out.header.at_us)
    if not words:
        assert list(out.events) == STORY
        second = ctl("log", "import", str(file), "--log", scratch)
        assert (second.code, "not empty" in second.err) == (5, True)
        assert asyncio.run(_rows(scratch)) == (len(out.events), len(out.commands))


async def test_services_go_on_from_it_and_say_nothing_again(dsn: str, scratch: str, postgres: Postgres, tmp_path: Path) -> None:
    from services.host.slices import app
    from services.host.slices.words import Asked

    file = tmp_path / "out.aslog"
    await app.export(Asked(what="export", log=dsn, file=file, vms=(VM,)))
    await app.take_in(Asked(what="import", log=scratch, file=file))
    before = await _rows(scratch)
    with NatsServer() as nats:
        control = Control(["compute", "memory", "io", "relay"], postgres.dsn(DATABASES[1], "asv_service"), nats.url, tmp_path)
        await control.start()
        from libs.common.bus.nats import NatsBus

        bus = await NatsBus.connect(nats.url, name="asker")
        refused = await ask(bus, f"cmd.compute.vm-{VM}", DefineVm(vm=VM, vcpus=1, memory_mib=256), "again")
        assert refused.status == "refused", "it knows the VM"
        reply = await ask(bus, "cmd.compute.vm-later", DefineVm(vm="later", vcpus=1, memory_mib=256), "later")
        assert (reply.status, reply.position) == ("accepted", before[0] + 1), "the next position: nothing was said again"
        await bus.drain()
        assert await control.end(signal.SIGTERM) == 0


def _torn(content: Aslog, file: Path) -> None:
    file.write_bytes(packed(content)[:-100])


def _changed(content: Aslog, file: Path) -> None:
    data = bytearray(packed(content))
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))


def _gap(content: Aslog, file: Path) -> None:
    left = (*content.events[:40], *content.events[41:])
    write(file, Aslog(replace(content.header, events=len(left)), left, content.commands))


def _hole_in_a_stream(content: Aslog, file: Path) -> None:
    left = [event for event in content.events if (event.stream, event.version) != ("vm-payroll-db", 3)]
    closed = [Recorded(n, *msgspec.structs.astuple(event)[1:]) for n, event in enumerate(left, 1)]
    write(file, aslog(closed, [], 1))


def _two_logs(content: Aslog, file: Path) -> None:
    first = len(content.events)
    second = [Recorded(first + n, *msgspec.structs.astuple(event)[1:]) for n, event in enumerate(content.events, 1)]
    at_us = content.events[-1].at_us
    write(file, aslog([*content.events, *(replace(event, at_us=at_us) for event in second)], content.commands, 1))


def _another_incarnation(content: Aslog, file: Path) -> None:
    strange = [e for e in content.events if msgspec.msgpack.decode(e.meta)[1]]
    meta = msgspec.msgpack.decode(strange[0].meta)
    meta[1] = "7-1"
    at = strange[0].position - 1
    events = (*content.events[:at], replace(strange[0], meta=encode(meta)), *content.events[at + 1 :])
    write(file, Aslog(content.header, events, content.commands))


def _another_command(content: Aslog, file: Path) -> None:
    one = next(c for c in content.commands if c.position)
    other = Decided(one.position + 1, one.at_us, "of-another-log", one.stream, one.payload, one.outcome)
    write(file, aslog(content.events, [*content.commands, other], 1))


def _of_tomorrow(content: Aslog, file: Path) -> None:
    last, vm = len(content.events), max(e.version for e in content.events if e.stream == f"vm-{VM}")
    data = encode({"type": "vm_teleported", "vm": VM})
    later = Recorded(last + 1, f"vm-{VM}", vm + 1, "vm_teleported", 1, content.header.at_us, data, content.events[0].meta)
    write(file, aslog([*content.events, later], content.commands, 1))


def _later_version(content: Aslog, file: Path) -> None:
    at = next(n for n, e in enumerate(content.events) if e.type == "vm_defined")
    event = content.events[at]
    write(file, Aslog(content.header, (*content.events[:at], replace(event, v=99), *content.events[at + 1 :]), content.commands))


def _finalized_later(content: Aslog, file: Path) -> None:
    write(file, Aslog(replace(content.header, protocol=9), content.events, content.commands))


def _later_format(content: Aslog, file: Path) -> None:
    write(file, Aslog(replace(content.header, format=9), content.events, content.commands))


def _no_log(content: Aslog, file: Path) -> None:
    file.write_bytes(b"hello")


BAD: dict[str, tuple[Callable[[Aslog, Path], None], str]] = {
    "torn": (_torn, "is torn or was changed"),
    "changed": (_changed, "is torn or was changed"),
    "a gap": (_gap, "has a gap: event 41 is missing"),
    "a hole in a stream": (_hole_in_a_stream, "it has a gap, or is two logs in one"),
    "two logs": (_two_logs, "is no one log"),
    "of another incarnation": (_another_incarnation, "is no one log: event"),
    "another's command": (_another_command, "is no one log: event"),
    "of tomorrow": (_of_tomorrow, "which this release does not know; a release of aSV is needed"),
    "a later version": (_later_version, "this release reads it up to version 1; a release of aSV is needed"),
    "finalized later": (_finalized_later, "was finalized at protocol 9; a release of aSV is needed"),
    "a later format": (_later_format, "has format 9, this release reads 1"),
    "no log": (_no_log, "is no log"),
}


def test_what_is_no_log_changes_nothing(
    capfd: pytest.CaptureFixture[str], ctl: Ctl, dsn: str, scratch: str, rows: Callable[[], Any], tmp_path: Path
) -> None:
    good = tmp_path / "good.aslog"
    assert ctl("log", "export", str(good), "--log", dsn).code == 0
    content = read(good)
    for what, (spoil, named) in BAD.items():
        file = tmp_path / "bad.aslog"
        spoil(content, file)
        code = main(["import", str(file), "--log", scratch])  # what asvctl starts; a process for each would take a minute
        said = capfd.readouterr().err
        assert (code, named in said) == (6, True), (what, said)
        assert rows() is None, f"{what}: the database is as new"
    said = ctl("log", "import", str(file), "--log", scratch).err
    assert "is no log" in said and "Traceback" not in said
    assert ctl("log", "import", str(tmp_path / "none.aslog"), "--log", scratch).code == 2
    assert ctl("log", "import", str(good), "--log", str(good)).code == 2
    assert ctl("log", "import", str(good), "--log", "postgresql://owner@/none?host=/nowhere").code == 4
    assert ctl("log", "import", str(good), "--log", dsn).code in (5, 6), "a role that may not write"


def test_a_log_that_fails_half_way_in_is_not_there(
    ctl: Ctl, dsn: str, scratch: str, rows: Callable[[], Any], tmp_path: Path, postgres: Postgres
) -> None:
    """The database itself says no to its last event: nothing of what came before is left."""
    good = tmp_path / "good.aslog"
    assert ctl("log", "export", str(good), "--log", dsn).code == 0
    events = len(read(good).events)
    asyncio.run(migrate(scratch))
    asyncio.run(_run(scratch, f"alter table asv.log_batches add constraint nothing_beyond check (last < {events})"))
    said = ctl("log", "import", str(good), "--log", scratch)
    assert (said.code, "nothing was written" in said.err) == (6, True)
    assert rows() == (0, 0)
    asyncio.run(_run(scratch, "alter table asv.log_batches drop constraint nothing_beyond"))
    assert ctl("log", "import", str(good), "--log", scratch).code == 0
    assert rows()[0] == events


def test_a_log_of_a_later_incarnation_goes_on_in_it(
    ctl: Ctl, dsn: str, scratch: str, postgres: Postgres, tmp_path: Path
) -> None:
    """Generations are made of it: a log that was restored twice is not one that never was."""
    file, again = tmp_path / "third.aslog", tmp_path / "again.aslog"
    assert ctl("log", "export", str(file), "--log", dsn).code == 0
    content = read(file)
    file.unlink()
    write(file, Aslog(replace(content.header, incarnation=3), content.events, content.commands))
    assert ctl("log", "import", str(file), "--log", scratch).code == 0
    assert ctl("log", "export", str(again), "--log", postgres.dsn(DATABASES[1], "asv_reader")).code == 0
    assert read(again).header.incarnation == 3


async def _run(dsn: str, statement: str) -> None:
    owner = await asyncpg.connect(dsn)
    await owner.execute(statement)
    await owner.close()
