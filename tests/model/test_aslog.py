"""A log as a file: what was written is read; a torn, changed or foreign one is refused in words, at every byte."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import msgspec
import pytest

from libs.common.log import Eventless
from libs.common.messages import Recorded
from libs.past.aslog import MAGIC, AslogPast, BadAslog, aslog, packed, read, unpacked, write
from libs.past.source import Decided
from libs.past.where import open_past

EVENTS = [Recorded(n, f"vm-{n % 3}", n // 3 + 1, "vm_paused", 1, 1000 + n, b"\x80", b"\x90") for n in range(1, 40)]
COMMANDS = [Decided(0, 1000, "refused", "vm-1", b"p", b"o"), Decided(7, 1007, "c7", "vm-1", b"p", b"o")]
WHOLE = aslog(EVENTS, COMMANDS, 3, note="of a test")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write(tmp_path / "some.aslog", WHOLE)
    return tmp_path / "some.aslog"


def test_what_was_written_is_read(file: Path) -> None:
    found = read(file)
    assert found == WHOLE and [one.position for one in found.commands] == [7, 0]
    header = found.header
    assert (header.incarnation, header.first, header.last, header.whole, header.at_us) == (3, 1, 39, True, 1039)
    assert packed(found) == file.read_bytes(), "the same content is the same bytes"
    assert aslog([], [], 1).header.last == 0 and unpacked(packed(aslog([], [], 1)), "x").events == ()


def test_a_slice_says_that_it_is_one() -> None:
    assert not aslog([EVENTS[0], EVENTS[4]], [], 1).header.whole
    with pytest.raises(ValueError, match="by position"):
        aslog([EVENTS[4], EVENTS[0]], [], 1)


def test_torn_or_changed_anywhere_it_is_refused(file: Path) -> None:
    data = file.read_bytes()
    for n in range(len(data)):
        with pytest.raises(BadAslog, match=r"some is (no log|torn or was changed)"):
            unpacked(data[:n], "some")
        with pytest.raises(BadAslog, match=r"some is (no log|torn or was changed)"):
            unpacked(data[:n] + bytes([data[n] ^ 1]) + data[n + 1 :], "some")
    with pytest.raises(BadAslog):
        unpacked(data + b"\x00", "some")


def signed(body: bytes) -> bytes:
    data = MAGIC + gzip.compress(body)
    return data + hashlib.sha256(data).digest()


def frame(kind: bytes, value: object) -> bytes:
    body = msgspec.msgpack.encode(value)
    return kind + len(body).to_bytes(4) + body


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "does not hold what its header says"),
        (frame(b"E", []), "has no header"),
        (frame(b"H", {"format": 2, "shape": "of tomorrow"}), "has format 2, this release reads 1: use the release that wrote it"),
        (frame(b"H", {"format": 1}), "cannot be read"),
        (frame(b"H", WHOLE.header), "does not hold what its header says"),
        (frame(b"H", WHOLE.header) + frame(b"X", 1), "a frame of kind b'X'"),
        (frame(b"H", WHOLE.header) + b"E\x00\x00\xff\xff", "ends within a frame"),
        (frame(b"H", WHOLE.header) + frame(b"E", [1]), "cannot be read"),
    ],
)
def test_what_was_signed_and_is_wrong_is_refused_in_words(body: bytes, said: str) -> None:
    with pytest.raises(BadAslog, match=said):
        unpacked(signed(body), "some")


def test_a_write_that_fails_leaves_what_was_there(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = file.read_bytes()

    def full(number: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="no space"):
        write(file, aslog([], [], 1))
    assert file.read_bytes() == before and [path.name for path in file.parent.iterdir()] == [file.name]


async def test_it_is_read_as_a_past_log(file: Path) -> None:
    past = await open_past(str(file))
    head = await past.head()
    assert (head.position, head.incarnation, head.at_us) == (39, 3, 1039)
    assert [e async for chunk in past.replay(2, 9) for e in chunk] == EVENTS[2:9]
    assert await past.read_stream("vm-1", 1, 2) == [e for e in EVENTS if e.stream == "vm-1" and e.version > 1][:2]
    assert [c async for chunk in past.commands() for c in chunk] == [COMMANDS[1]]
    assert await past.eventless("vm-1") == [Eventless(1000, "refused", b"p", b"o")]
    assert [await past.position_at(at) for at in (0, 1001, 1007, 9999)] == [0, 1, 7, 39]
    await past.close()
    with pytest.raises(BadAslog, match="is no log"):
        AslogPast.open(Path(__file__))
