"""What services say of their streams, asked through the gateway, by pages, by admins; and by asvctl."""

from __future__ import annotations

import asyncio

import pytest

from libs.common.bus import Incoming
from libs.common.host import digests
from libs.common.host.core import Host
from libs.common.host.digests import Digests, Page
from libs.common.host.jobs import Slot
from libs.common.messages import encode
from services.cli.failure import Failure
from services.cli.log_deep import told_by_services
from services.cli.session import SESSION, begin
from tests.contract.gateway_rig import Rig, problem
from tests.toy import TOY, Total

STREAMS = 7
PAGE = 3


def host() -> Host:
    made = Host(TOY)
    for n in range(STREAMS):
        made.slots[f"counter-{n}"] = Slot(Total(n), version=n + 1)
    made.slots["counter-empty"] = Slot(Total())
    made.reactions.taken = 40
    return made


def test_pages_hold_each_stream_once() -> None:
    made, seen, after, more = host(), [], "", True
    while more:
        found = digests.of(made, Page(after), PAGE)
        seen += found.streams
        after, more = found.streams[-1].stream, found.more
    assert [one.stream for one in seen] == [f"counter-{n}" for n in range(STREAMS)]
    assert [one.digest for one in seen] == [digests.digest(Total(n)) for n in range(STREAMS)]


def test_equal_states_have_equal_digests_whatever_the_order_of_their_words() -> None:
    assert digests.digest({"a": 1, "b": {"x", "y"}}) == digests.digest({"b": {"y", "x"}, "a": 1})
    assert digests.digest(Total(1)) != digests.digest(Total(2))


async def serve(world: Rig, names: tuple[str, ...]) -> None:
    made = host()

    async def answer(message: Incoming) -> None:
        page = digests.answer(made, message.data)
        await message.respond(encode(Digests(page.position, 3, page.streams[:PAGE], len(page.streams) > PAGE)))

    for name in names:
        await world.bus.serve(f"query.{name}.digests", answer)


async def test_an_admin_is_told_and_others_are_not(world: Rig) -> None:
    await serve(world, ("compute",))
    admin, operator = await world.client(), await world.client("operator")
    page = (await admin.get("/v1/cluster/digests/compute")).json()
    assert (page["position"], page["incarnation"], page["more"], len(page["streams"])) == (40, 3, True, PAGE)
    assert page["streams"][1] == {"stream": "counter-1", "version": 2, "digest": digests.digest(Total(1)).hex()}
    next_page = (await admin.get("/v1/cluster/digests/compute", params={"after": "counter-2"})).json()
    assert next_page["streams"][0]["stream"] == "counter-3"
    assert problem(await operator.get("/v1/cluster/digests/compute"), 403)
    assert problem(await admin.get("/v1/cluster/digests/nothing"), 404)["reason"] == "NO_SUCH_SERVICE"
    assert problem(await admin.get("/v1/cluster/digests/memory"), 503), "it does not run"


async def test_asvctl_turns_all_pages_into_what_each_service_says(world: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    await serve(world, ("compute", "memory", "io"))
    admin = await world.client()
    begin()
    SESSION.api, SESSION.token = world.url, admin.headers["authorization"].removeprefix("Bearer ")
    with pytest.raises(Failure, match="ha does not say what its streams are like"):
        await asyncio.to_thread(told_by_services)
    await serve(world, ("ha",))
    claims = await asyncio.to_thread(told_by_services)
    assert [claim.who for claim in claims] == [f"{name} as it runs" for name in ("compute", "memory", "io", "ha")]
    assert claims[0].position == 40
    assert claims[0].streams == {f"counter-{n}": (n + 1, digests.digest(Total(n))) for n in range(STREAMS)}
    begin()
