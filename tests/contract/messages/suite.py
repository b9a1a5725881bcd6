"""The contract of a service's messages. `class TestCompute(Contract): service = "compute"` is all that a service needs beside its
table (settings.py): the cases come from the message classes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, ClassVar

import msgspec
import pytest
import pytest_asyncio

from libs.common.bus.edge import Unanswered, ask
from libs.common.host import driver
from libs.common.host.status import Status
from libs.common.log import CommandRow, Group, NewEvent, Unit
from libs.common.messages import Fact, Hello, Message, Meta, Tick, decode_meta, decode_reply, encode, tag_of
from proto.examples import example
from proto.families import FAMILIES
from tests.contract.databases import fresh
from tests.contract.messages.forms import STRANGE, body_of, ill_formed, never_a_message
from tests.contract.messages.played import Outcome, play
from tests.contract.messages.rig import WAIT_S_MAX, Alone
from tests.contract.messages.settings import Given, Heard, Setting, followed, sample, settings
from tests.servers import NatsServer, Postgres


@pytest.mark.asyncio(loop_scope="class")
class Contract:
    service: ClassVar[str]

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if "setting" in metafunc.fixturenames:
            table = settings(self.service)
            metafunc.parametrize("setting", table, ids=[one.name for one in table])
        if "wish" in metafunc.fixturenames:
            family = FAMILIES[self.service]
            wishes = (*family.commands, *family.facts)
            metafunc.parametrize("wish", wishes, ids=[tag_of(one) for one in wishes])

    @pytest_asyncio.fixture(scope="class", loop_scope="class")
    @classmethod
    async def alone(cls, postgres: Postgres) -> AsyncIterator[Alone]:
        """Its own ticks come when a case says so, and at no other time."""
        async with fresh(postgres) as database:
            with NatsServer() as nats, pytest.MonkeyPatch.context() as patch:
                patch.setattr(driver, "TICK_S", 3600.0)
                async with Alone.at(cls.service, postgres.dsn(database), nats.url) as alone:
                    yield alone

    @pytest_asyncio.fixture(scope="class", loop_scope="class")
    @classmethod
    async def told(cls, alone: Alone) -> dict[str, Outcome]:
        """What became of every setting; the service goes on."""
        return await play(alone, settings(alone.name))

    # --- what it is sent ------------------------------------------------------------------------------------------

    async def test_a_message_is_answered_and_its_events_are_in_the_log(
        self, told: dict[str, Outcome], setting: Setting
    ) -> None:
        outcome, kind = told[setting.name], type(setting.message())
        assert outcome.types == list(setting.then), outcome.reply
        if issubclass(kind, Tick):
            assert outcome.reply is None
            return
        reply = outcome.reply
        assert reply is not None
        assert (reply.status, reply.reason) == ("refused" if setting.refused else "accepted", setting.refused)
        assert reply.position == (outcome.events[0].position if outcome.events else 0)
        assert bool(reply.sentence) == bool(setting.refused)
        if not issubclass(kind, Fact):
            assert outcome.kept is not None, "a decided command is recorded, refused or not"
            assert decode_reply(outcome.kept.outcome).status == reply.status

    async def test_the_same_again_is_answered_the_same_and_writes_nothing(
        self, told: dict[str, Outcome], setting: Setting
    ) -> None:
        """At once, and by another process that has folded the log."""
        outcome, message = told[setting.name], setting.message()
        if isinstance(message, Tick):
            return
        assert outcome.wrote_again == 0
        if not isinstance(message, Fact):
            for again in (outcome.again, outcome.after):
                assert again is not None and outcome.reply is not None
                was = outcome.reply
                assert (again.status, again.reason, again.position) == (was.status, was.reason, was.position)

    async def test_ill_formed_it_is_invalid_and_nothing_is_written(
        self, alone: Alone, told: dict[str, Outcome], wish: type[Message]
    ) -> None:
        before = await alone.rows()
        subject = alone.subject(example(wish))
        replies = [(what, await alone.send(body, f"ill-{what}", subject)) for what, body in ill_formed(wish)]
        assert replies and [(what, reply) for what, reply in replies if reply.status != "invalid"] == []
        assert all(reply.sentence for _, reply in replies)
        assert await alone.rows() == before

    async def test_from_where_it_may_not_come_it_is_invalid(
        self, alone: Alone, told: dict[str, Outcome], wish: type[Message]
    ) -> None:
        before, body, message = await alone.rows(), body_of(wish), example(wish)
        stream = alone.stream(message)
        replies = [await alone.send(body, "w1", f"fact.another-node.{alone.name}")]
        if issubclass(wish, Fact | Tick):
            replies.append(await alone.send(body, "w2", f"cmd.{alone.name}.{stream}"))
        else:
            replies.append(await alone.send(body, "w3", f"cmd.{alone.name}.another-stream"))
            replies.append(await alone.send(body, "w4", f"cmd.{alone.name}.{stream}", actor=""))
        assert {reply.status for reply in replies} == {"invalid"}, replies
        assert await alone.rows() == before

    async def test_a_fact_of_a_later_release_is_taken_without_what_is_new(
        self, alone: Alone, told: dict[str, Outcome]
    ) -> None:
        kinds: tuple[type[Message], ...] = (Hello, *FAMILIES[self.service].facts)
        for kind in kinds:
            later = body_of(kind) | {"heard": 0, STRANGE: 1}
            reply = await alone.send(later, f"later-{tag_of(kind)}", alone.subject(example(kind)))
            assert reply.status in {"accepted", "refused"}, (kind, reply)

    async def test_what_is_no_message_is_invalid(self, alone: Alone, told: dict[str, Outcome]) -> None:
        before = await alone.rows()
        replies = [(what, await alone.raw(f"cmd.{alone.name}.some-where", data)) for what, data in never_a_message()]
        assert [what for what, reply in replies if reply.status != "invalid" or not reply.sentence] == []
        assert await alone.rows() == before

    # --- what it follows ------------------------------------------------------------------------------------------

    async def test_what_it_follows_leads_to_the_events_of_its_table(self, alone: Alone) -> None:
        """Each followed event, of every version ever, under names of its own, on the bus; with a field that is not known here, and
        among events of types that are not."""
        cases = dict(_followed(alone))
        await alone.begin(Group(()), relay=True)
        units = [_unit(name, given) for name, given in cases.items()]
        done = await alone.log.append(Group(tuple(units)))
        await _reacted(alone, done.positions[-1])
        caused: dict[int, list[str]] = {}
        for event in await alone.events():
            origin = decode_meta(event.meta).causation
            if origin:
                caused.setdefault(int(origin.partition("-")[2]), []).append(event.type)
        found = {name: tuple(caused.get(position, ())) for name, position in zip(cases, done.positions, strict=True)}
        expected = {name: followed(self.service)[given.type] for name, given in cases.items() if name != "unknown"}
        assert {name: types for name, types in found.items() if name != "unknown"} == expected
        assert alone.runner is not None and alone.runner.counts.bugs == 0

    # --- what it hears and is asked -------------------------------------------------------------------------------

    async def test_telemetry_of_any_kind_harms_nobody(self, alone: Alone, told: dict[str, Outcome]) -> None:
        """Whole, longer by what a later release says, and torn."""
        assert alone.runner is not None
        for kind in FAMILIES["node"].telemetry:
            for pattern in alone.service.telemetry:
                subject, whole = pattern.replace("*", "n1"), msgspec.msgpack.decode(encode(example(kind)))
                for body in (whole, [*whole, "later"], whole[:1], [], 7):
                    await alone.tell([Heard(subject, body)])
        assert alone.runner.counts.bugs == 0

    async def test_it_says_how_it_is_and_what_it_is_not_asked(self, alone: Alone, told: dict[str, Outcome]) -> None:
        await alone.questions()
        await _at_rest(alone)
        status = await ask(alone.asker, self.service, "status", Status(service=""), Status)
        assert (status.service, status.position) == (self.service, (await alone.log.head()).position)
        with pytest.raises(Unanswered) as nothing:
            await ask(alone.asker, self.service, "whatever", Status(service=""), Status)
        assert nothing.value.problem.reason == "UNKNOWN"


def _followed(alone: Alone) -> Any:
    for n, kind in enumerate(alone.service.follows):
        for v in range(1, kind.VERSION + 1):
            body = _under(sample(kind, v), f"f{n}v{v}")
            yield f"{tag_of(kind)}.v{v}", Given(_stream_of(kind, body, f"{n}v{v}"), tag_of(kind), v, body | {STRANGE: 1})
    yield "unknown", Given("teleport-a", "vm_teleported", 1, {"vm": "a"})


def _under(body: dict[str, Any], prefix: str) -> dict[str, Any]:
    return body | {key: f"{prefix}-{body[key]}" for key in ("vm", "node") if isinstance(body.get(key), str)}


def _stream_of(kind: type[Message], body: dict[str, Any], key: str) -> str:
    stream = next(s.kind for f in FAMILIES.values() for s in f.streams if kind in s.events)
    named = body.get("vm") if stream in {"vm", "devices", "guard", "verdict", "map"} else body.get("node")
    return f"{stream}-{named or key}"


def _unit(name: str, given: Given) -> Unit:
    meta = encode(Meta(name, "", name, "user:given", 0))
    news = NewEvent(given.type, given.v, encode({"type": given.type} | given.body), meta)
    return Unit(given.stream, 0, (news,), CommandRow(name, b"\x80", b"\x80"))


async def _at_rest(alone: Alone) -> None:
    """It has reacted to all there is, and nothing came of that which it has not reacted to."""
    assert alone.runner is not None
    async with asyncio.timeout(WAIT_S_MAX):
        while alone.runner.host.reactions.position < (await alone.log.head()).position:
            await asyncio.sleep(0.005)


async def _reacted(alone: Alone, position: int) -> None:
    assert alone.runner is not None
    async with asyncio.timeout(WAIT_S_MAX):
        while alone.runner.host.reactions.position < position:
            await asyncio.sleep(0.005)
