"""Slices of a log: what is in them, that they decide as the log did, and that under other names it is the same story."""

from __future__ import annotations

from functools import cache

import msgspec
import pytest
from msgspec.structs import replace

from libs.common.host.core import Host
from libs.common.log.memory import MemoryLog
from libs.common.messages import Message, Recorded, decode_envelope, decode_meta, decode_reply
from libs.past.aslog import Aslog, AslogPast, packed, read, unpacked
from libs.past.memory import MemoryPast
from libs.past.replaying import redecide
from libs.past.slices.anonymize import Anonymizer, Unlike
from libs.past.slices.cut import cut
from libs.past.slices.leaks import leaks
from libs.past.slices.leaves import Leaf, mapped
from libs.past.slices.names import Names
from libs.past.slices.old import names_for
from libs.past.slices.select import SINGLE, NothingThere, Wanted, select
from libs.world.world import World
from proto.compute import DefineVm, StartVm, StopVm
from proto.families import REGISTRY
from proto.networks import CreateNetwork
from proto.services import SERVICES
from proto.upcasts import UPCASTS
from services.host.known import service
from services.host.replay.codes import code, codes
from services.host.slices.app import anonymized, proven
from tests.history.make import HERE
from tests.past_rig import failover

KEY = b"k" * 32
OURS = ("payroll-db", "payroll-web", "ledger-app", "finance-lan", "finance-br", "of the finance people", "for the audit")


@cache
def story() -> MemoryLog:
    """VMs with names that tell something, texts that people wrote, refusals."""
    world = World(1)
    world.begin()
    world.run(6)
    words = "of the finance people"
    world.ask("io", "network-finance-lan", CreateNetwork(network="finance-lan", bridge="finance-br", vlan=7, description=words))
    for name in OURS[:3]:
        world.ask("compute", f"vm-{name}", DefineVm(vm=name, vcpus=2, memory_mib=256))
    world.run(2)
    world.ask("compute", "vm-nobody", StartVm(vm="nobody"))
    for name in OURS[:3]:
        world.ask("compute", f"vm-{name}", StartVm(vm=name))
    world.run(20)
    world.ask("compute", "vm-payroll-db", StopVm(vm="payroll-db", deadline_s=0))
    world.run(10)
    return world.log


async def sliced(log: MemoryLog, **wanted: object) -> Aslog:
    past = MemoryPast(log)
    return await cut(past, await select(past, Wanted(**wanted)))  # type: ignore[arg-type]


def folded(events: tuple[Recorded, ...] | list[Recorded]) -> dict[str, object]:
    """By stream: the state of every service's."""
    out: dict[str, object] = {}
    for name in SERVICES:
        host = Host(service(name), dict(UPCASTS))
        host.fold(events, 0)
        out |= host.states()
    return out


def text(content: Aslog) -> bytes:
    """All that is in the file, as it is before it is compressed."""
    rows = [*(msgspec.structs.astuple(e) for e in content.events), *(msgspec.structs.astuple(c) for c in content.commands)]
    return msgspec.msgpack.encode(rows) + msgspec.json.encode(content.header)


# --- what is in it ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("log", [failover, story], ids=["failover", "story"])
async def test_each_stream_is_whole_and_folds_to_the_state_that_it_had(log: object) -> None:
    whole: MemoryLog = log()  # type: ignore[operator]
    vm = "vm-0" if log is failover else "payroll-db"
    head = whole.head_now().position
    for at in range(10, head, 17):
        content = await sliced(whole, vms=(vm,), first=max(at - 10, 1), last=at)
        assert [event.position for event in content.events] == list(range(1, len(content.events) + 1))
        last = content.header.was_last
        before = whole.read_all_now(0, last)
        streams = {event.stream for event in content.events}
        then, now = folded(before), folded(content.events)
        assert now == {stream: state for stream, state in then.items() if stream in streams}
        own = [event for event in before if event.stream in (f"vm-{vm}", f"devices-{vm}", f"guard-{vm}")]
        assert len(own) == sum(event.stream in (f"vm-{vm}", f"devices-{vm}", f"guard-{vm}") for event in content.events)


async def test_it_holds_the_ledgers_the_nodes_and_the_causes_and_not_the_neighbours() -> None:
    log = failover()
    content = await sliced(log, vms=("vm-0",))
    streams = {event.stream for event in content.events}
    assert {"vm-vm-0", "devices-vm-0", "guard-vm-0", "node-n1", "ledger-n1", "lease-n1", "ledger-n2"} <= streams
    assert {s for s in streams if s.startswith("vm-")} == {"vm-vm-0", "vm-vm-3"}, "both stopped with n1: it is one story"
    lost = next(e for e in content.events if e.type == "node_lost")
    stopped = next(e for e in content.events if e.type == "vm_stopped")
    assert decode_meta(stopped.meta).causation == f"1-{lost.position}", "causes are renumbered"
    ids = {one.id for one in content.commands}
    assert f"compute:1-{lost.position}:0" in ids


async def test_what_was_asked_about_is_marked_and_the_end_cuts_no_command_in_two() -> None:
    log = failover()
    for last in range(20, 60):
        content = await sliced(log, first=15, last=last)
        assert content.header.since == 15 and content.header.was_first == 15
        command = decode_meta(content.events[-1].meta).command
        following = log.read_all_now(content.header.was_last, content.header.was_last + 1)
        assert not following or decode_meta(following[0].meta).command != command


async def test_what_is_not_there_is_said() -> None:
    for wanted, said in (({"vms": ("nobody-knows",)}, "vm/nobody-knows"), ({"nodes": ("n9",)}, "node/n9"), ({"first": 999}, "999")):
        with pytest.raises(NothingThere, match=said):
            await sliced(failover(), **wanted)


@pytest.mark.parametrize("log", [failover, story], ids=["failover", "story"])
async def test_it_decides_as_the_log_did_from_its_file(log: object) -> None:
    content = await sliced(log(), vms=("vm-0" if log is failover else "payroll-db",))  # type: ignore[operator]
    decided, differs = await proven(unpacked(packed(content), "it"))
    assert differs == {} and sum(decided.values()) == len(content.commands)


async def test_a_node_is_a_slice_too() -> None:
    content = await sliced(failover(), nodes=("n1",), first=60)
    streams = {event.stream for event in content.events}
    assert {"node-n1", "ledger-n1", "plan-n1", "lease-n1"} <= streams
    assert (await proven(content))[1] == {}


# --- under other names ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("log", [failover, story], ids=["failover", "story"])
@pytest.mark.parametrize("wanted", [{}, {"vms": ("payroll-db",)}], ids=["whole", "vm"])
async def test_under_other_names_it_is_the_same_story(log: object, wanted: dict[str, object]) -> None:
    whole: MemoryLog = log()  # type: ignore[operator]
    if wanted and log is failover:
        wanted = {"vms": ("vm-0",)}
    content = await sliced(whole, **wanted)
    new, table = anonymized(content, KEY)
    decided, differs = await proven(new)
    assert differs == {} and sum(decided.values()) == len(content.commands)
    assert [(e.type, e.v, e.version, e.at_us) for e in new.events] == [(e.type, e.v, e.version, e.at_us) for e in content.events]
    assert [e.stream for e in new.events] == [renamed(e.stream, table) for e in content.events]
    for one, other in zip(content.events, new.events, strict=True):
        assert numbers(one.data) == numbers(other.data)
    statuses = [(decode_reply(c.outcome).status, decode_reply(c.outcome).reason) for c in content.commands]
    assert statuses == [(decode_reply(c.outcome).status, decode_reply(c.outcome).reason) for c in new.commands]
    assert {type(state) for state in folded(new.events).values()} == {type(state) for state in folded(content.events).values()}


async def test_none_of_the_old_names_is_in_its_bytes() -> None:
    content = await sliced(story())
    assert all(name.encode() in text(content) for name in OURS[:-1])
    new, table = anonymized(content, KEY)
    data = text(new)
    short = {"db", "web", "ledger", "app", "br", "lan"}
    parts = {part.encode() for name in OURS for part in {name, *name.split("-")} - short}
    assert [part for part in parts if part in data] == []
    assert [name for name in table if len(name) > 5 and name.encode() in data] == ["initrd"], "a field has that name"
    envelopes = [decode_envelope(one.payload) for one in new.commands]
    assert {e.origin for e in envelopes} == {e.trace for e in envelopes} == {""}


async def test_a_name_that_is_left_is_found() -> None:
    content = await sliced(story())
    new, table = anonymized(content, KEY)
    assert leaks(new, table, REGISTRY.classes) == []
    at = next(n for n, event in enumerate(new.events) if event.type == "network_created")
    event = new.events[at]
    body = msgspec.msgpack.decode(event.data)
    for where in ("description", "of_tomorrow"):
        spoilt = msgspec.msgpack.encode(body | {where: "it is on payroll-db.qcow2, they say"})
        events = (*new.events[:at], Recorded(*[*msgspec.structs.astuple(event)[:6], spoilt, event.meta]), *new.events[at + 1 :])
        assert leaks(Aslog(new.header, events, new.commands), table, REGISTRY.classes) == ["payroll-db"]


class Disordered(Names):
    """Names that do not keep their order."""

    def _made(self, shape: str, old: list[str], make: object) -> list[str]:
        return super()._made(shape, old, make)[::-1]  # type: ignore[arg-type]


async def test_names_out_of_order_decide_otherwise_and_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from libs.past.slices import old

    content = read(HERE / "rebalanced.aslog")
    Anonymizer(codes(), REGISTRY.classes, names_for(content, REGISTRY.classes, KEY)).run(content)
    monkeypatch.setattr(old, "Names", Disordered)
    with pytest.raises(Unlike, match="v0` should be"):
        Anonymizer(codes(), REGISTRY.classes, names_for(content, REGISTRY.classes, KEY)).run(content)


async def test_what_today_decides_otherwise_is_renamed_and_told() -> None:
    """A log of other code: its story is kept as it was, not as it would be."""
    content = await sliced(story())
    at = next(n for n, one in enumerate(content.commands) if one.stream == "vm-nobody")
    reply = decode_reply(content.commands[at].outcome)
    other = replace(content.commands[at], outcome=msgspec.msgpack.encode(replace(reply, reason="OF_OLD")))
    old = Aslog(content.header, content.events, (*content.commands[:at], other, *content.commands[at + 1 :]))
    new, _ = anonymized(old, KEY)
    reasons = [decode_reply(one.outcome).reason for one in new.commands]
    assert "OF_OLD" in reasons
    assert "compute" in (await proven(new))[1]
    assert "compute" in (await proven(old))[1], "as it does in the log itself"


async def test_the_same_key_gives_the_same_file() -> None:
    content = await sliced(story(), vms=("payroll-db",))
    one, other, third = (packed(anonymized(content, key)[0]) for key in (KEY, KEY, b"x" * 32))
    assert one == other != third


def renamed(stream: str, table: dict[str, str]) -> str:
    kind, _, key = stream.partition("-")
    return stream if stream in SINGLE else f"{kind}-{table.get(key, key)}"


def numbers(data: bytes) -> object:
    """The message without its words."""
    kind: type[Message] | None = None
    return mapped(kind, _keyless(msgspec.msgpack.decode(data)), lambda leaf, text: "" if leaf is not Leaf.WORD else text)


def _keyless(value: object) -> object:
    if isinstance(value, dict):
        return [_keyless(item) for item in value.values()]
    return [_keyless(item) for item in value] if isinstance(value, list) else value


async def test_a_slice_of_a_slice_is_itself() -> None:
    content = await sliced(failover(), vms=("vm-0",))
    past = AslogPast(content)
    again = await cut(past, await select(past, Wanted()))
    assert (again.events, again.commands) == (content.events, content.commands)
    assert (await redecide(past, code("compute"))).difference is None
