"""What an agent is ordered and asked, over the real bus: answers, facts, refusals, the same again, fields of later releases, orders
of the past. One agent for all: what is ordered builds on what was before."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from libs.common.messages import Message, encode, tag_of
from proto.families import FAMILIES
from tests.contract.messages.forms import STRANGE, ill_formed
from tests.contract.node.rig import WAIT_S_MAX, Agent, agent, until
from tests.contract.node.said import ASKS, ORDERS, TELEMETRY, Asked, Ordered, said, vm_order
from tests.servers import NatsServer

LASTING = [ordered for ordered in ORDERS if ordered.where != "incarnation"]
GREETING, LEAVE = ORDERS[-2:]


def by_tag(one: Ordered | Asked) -> str:
    return tag_of(one.kind)


@pytest.mark.asyncio(loop_scope="class")
class TestNode:
    @pytest_asyncio.fixture(scope="class", loop_scope="class")
    @classmethod
    async def agent(cls, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Agent]:
        folder: Path = tmp_path_factory.mktemp("node")
        with NatsServer() as nats:
            async with agent(nats, folder) as one:
                yield one

    async def test_it_says_what_it_is_to_all_services_and_says_it_on(self, agent: Agent) -> None:
        await agent.fact("report_node")
        await until(lambda: set(agent.telemetry) >= set(TELEMETRY), f"telemetry of all kinds; came: {sorted(agent.telemetry)}")
        hellos = {service for service, body in agent.facts if body["type"] == "hello"}
        assert hellos == {"compute", "memory", "io"}
        for word, kind in TELEMETRY.items():
            assert msgspec.msgpack.decode(agent.telemetry[word][-1], type=kind).node == "n1"
        assert set(TELEMETRY.values()) == set(FAMILIES["node"].telemetry)

    @pytest.mark.parametrize("ordered", LASTING, ids=by_tag)
    async def test_an_order_is_heard_done_and_told_of_once_and_again_when_it_is_repeated(
        self, agent: Agent, ordered: Ordered
    ) -> None:
        before = len(agent.facts)
        heard = await agent.order(said(ordered.kind, ordered.body))
        assert heard == {"accepted": True}
        if ordered.fact:
            told = await agent.fact(ordered.fact, lambda body: body.get("seen", "running") == "running", after=before)
            again = await agent.order(said(ordered.kind, ordered.body))
            assert again["accepted"] is True
            if told["type"] == "report_vm":
                assert (await agent.ask("info", said(ASKS[0].kind, ASKS[0].body)))["pid"] == told["pid"], "it was not started twice"

    @pytest.mark.parametrize("ordered", LASTING, ids=by_tag)
    async def test_an_older_order_is_refused(self, agent: Agent, ordered: Ordered) -> None:
        older = ordered.body | {ordered.where: 0, "version": 0}
        heard = await agent.order(said(ordered.kind, older))
        assert heard["accepted"] is False and heard["sentence"]

    @pytest.mark.parametrize("ordered", LASTING, ids=by_tag)
    async def test_a_field_of_a_later_release_is_passed_over(self, agent: Agent, ordered: Ordered) -> None:
        assert (await agent.order(said(ordered.kind, ordered.body) | {STRANGE: 1}))["accepted"] is True

    @pytest.mark.parametrize("kind", FAMILIES["node"].orders, ids=tag_of)
    async def test_an_order_that_is_none_is_not_followed(self, agent: Agent, kind: type[Message]) -> None:
        wrong = [(what, await agent.order(body)) for what, body in ill_formed(kind) if what != STRANGE]
        assert wrong and [(what, heard) for what, heard in wrong if heard["accepted"] or not heard["sentence"]] == []

    @pytest.mark.parametrize("data", [b"", b"\xc1", encode(7), encode({"type": "order_moon"})], ids=["", "torn", "7", "moon"])
    async def test_what_is_no_order_is_not_followed(self, agent: Agent, data: bytes) -> None:
        heard = await agent.raw("order.n1", data)
        assert heard["accepted"] is False and "not an order" in heard["sentence"]

    async def test_a_file_outside_its_folder_is_not_followed(self, agent: Agent) -> None:
        order = vm_order(generation=7)
        order["spec"]["disks"][0]["file"] = "../../etc/shadow"
        assert "not an order" in (await agent.order(order))["sentence"]

    # --- questions ------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("asked", ASKS, ids=by_tag)
    async def test_a_question_is_answered_and_one_that_cannot_be_says_why(self, agent: Agent, asked: Asked) -> None:
        answer = msgspec.convert(await agent.ask(asked.what, said(asked.kind, asked.body)), type=asked.answer)
        assert not answer.error or by_tag(asked) == "ask_picture"
        bad = await agent.ask(asked.what, said(asked.kind, asked.bad))
        assert bad.get("error") or min(bad["answered_ms"].values()) < 0

    @pytest.mark.parametrize("asked", ASKS, ids=by_tag)
    async def test_a_question_that_is_none_is_answered_so(self, agent: Agent, asked: Asked) -> None:
        for what, body in ill_formed(asked.kind):
            if what != STRANGE:
                answer: dict[str, Any] = await agent.ask(asked.what, body)
                assert "not a question" in answer["error"], (what, answer)

    async def test_memory_is_divided_as_ordered(self, agent: Agent) -> None:
        memory = next(asked for asked in ASKS if by_tag(asked) == "ask_memory")
        async with asyncio.timeout(WAIT_S_MAX):
            while (await agent.ask("memory", said(memory.kind, memory.body)))["balloon_mib"] != 100:
                await asyncio.sleep(0.02)

    # --- of another log, and the end ------------------------------------------------------------------------------

    async def test_it_tells_all_to_a_log_that_was_restored_and_follows_the_old_no_more(self, agent: Agent) -> None:
        before = len(agent.facts)
        assert (await agent.order(said(GREETING.kind, GREETING.body)))["accepted"] is True
        told = await agent.fact("report_node", lambda body: body["greeting"] == 2, after=before)
        assert told["heard"] == 2
        for ordered in ORDERS:
            late = ordered.body | {"version": 99, "incarnation": 1}
            heard = await agent.order(said(ordered.kind, late))
            assert heard["accepted"] is False and "incarnation 1" in heard["sentence"], ordered.kind

    async def test_asked_to_leave_it_says_why_it_does_not(self, agent: Agent) -> None:
        assert (await agent.order(said(LEAVE.kind, LEAVE.body)))["accepted"] is True
        assert "still runs web-1" in (await agent.fact("report_left"))["refused"]

    async def test_a_lease_that_is_refused_is_given_back(self, agent: Agent) -> None:
        agent.refused = "lost"
        assert (await agent.fact("report_returned"))["epoch"] == 1

    async def test_all_facts_came(self, agent: Agent) -> None:
        """Of each kind that an agent says (said.UNSAID names the exception, and where it is tried)."""
        kinds = {tag_of(kind) for family in FAMILIES.values() for kind in family.facts} - {"report_memory"}
        assert kinds <= {body["type"] for _, body in agent.facts}
