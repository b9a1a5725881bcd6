"""The two channels of a file reader, with something else at their other ends."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator

import pytest

from services.node.drivers.backup_files import NotRead
from services.node.drivers.qemu.backups import reader_talk
from services.node.drivers.qemu.backups.reader_talk import LINE_BYTES_MAX, Broken, Stream, Talk

type Ends = tuple[Talk, socket.socket, socket.socket]


@pytest.fixture
def ends() -> Iterator[Ends]:
    """And theirs: control, data."""
    (control, theirs), (data, others) = socket.socketpair(), socket.socketpair()
    talk = Talk(Stream(control), Stream(data))
    with theirs, others:
        yield talk, theirs, others
        talk.close()


async def answered(ends: Ends, say: Callable[[bytes], tuple[bytes, bytes]]) -> list[bytes]:
    """say: of the token, what is said by control and by data."""
    talk, control, data = ends
    asked = talk.ask("cat", "vda")
    step = asyncio.ensure_future(anext(asked))
    line = (await asyncio.to_thread(control.recv, 4096)).split()
    assert (line[0], line[2], len(line[1])) == (b"cat", b"vda", 32)
    by_control, by_data = say(line[1] + b"\n")
    telling = asyncio.gather(asyncio.to_thread(data.sendall, by_data), asyncio.to_thread(control.sendall, by_control))
    found = []
    try:
        found.append(await step)
        found += [chunk async for chunk in asked]
    except StopAsyncIteration:
        pass
    await telling
    return found


async def test_bytes_come_until_the_token_whatever_is_in_them(ends: Ends) -> None:
    body = b"ok\nno 1\n" + b"\0" * 100_000
    assert b"".join(await answered(ends, lambda token: (b"ok\n", body + token))) == body
    assert b"".join(await answered(ends, lambda token: (b"ok\n", token[:-1] + token))) != b"", "a part of the token is no end"
    assert await answered(ends, lambda token: (b"ok\n", token)) == []


async def test_a_refusal_is_made_harmless(ends: Ends) -> None:
    with pytest.raises(NotRead, match=r"^\?\[31mtorn$"):
        await answered(ends, lambda token: (b"no \x1b[31mtorn\n", token))
    with pytest.raises(NotRead) as no:
        await answered(ends, lambda token: (b"no " + b"x" * 5000 + b"\n", token))
    assert len(str(no.value)) == reader_talk.SENTENCE_CHARS_MAX


async def test_one_that_talks_otherwise_is_of_no_more_use(ends: Ends) -> None:
    with pytest.raises(Broken, match="as it should"):
        await answered(ends, lambda token: (b"yes\n", token))


async def test_one_that_never_ends_a_line_is_given_up(ends: Ends) -> None:
    with pytest.raises(Broken, match="come to an end"):
        await answered(ends, lambda token: (b"x" * (LINE_BYTES_MAX + 2), b""))


async def test_one_that_ends_is_said_to_have(ends: Ends) -> None:
    talk, control, data = ends
    data.shutdown(socket.SHUT_RDWR)
    control.shutdown(socket.SHUT_RDWR)
    with pytest.raises(Broken, match="ended"):
        await talk.small("ls", "vda", 100)


async def test_silence_has_an_end(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader_talk, "SILENCE_S_MAX", 0.05)
    with pytest.raises(Broken, match="said nothing"):
        await ends[0].small("ls", "vda", 100)


async def test_an_answer_has_a_bound(ends: Ends) -> None:
    ends[2].sendall(b"x" * 200)
    with pytest.raises(Broken, match="more than 100 bytes"):
        await ends[0].small("ls", "vda", 100)
