"""The sectors of a lease area, and the words of agent and watchdog: what is written is read, what is torn is not."""

from __future__ import annotations

import pytest

from libs.lease.effects import Letter
from libs.lease.record import (
    SECTOR_BYTES,
    Record,
    Torn,
    file_of,
    letter_sector,
    read_letter,
    read_record,
    sector_of,
)
from libs.lease.words import BadWords, Lines, line

RECORD = Record("n1", "boot", 3, 17, "held", 5_000_000, 2, 4, ("web-1", "web-2"))
LETTER = Letter("n2", 4, 7, 3, ("web-1",))


def test_what_is_written_is_read() -> None:
    assert read_record(sector_of(RECORD)) == RECORD
    assert read_letter(letter_sector(LETTER)) == LETTER
    assert len(sector_of(RECORD)) == len(letter_sector(LETTER)) == SECTOR_BYTES


@pytest.mark.parametrize("at", [0, 13, 22, 40, 120])
def test_a_torn_sector_is_seen(at: int) -> None:
    sector = bytearray(sector_of(RECORD))
    sector[at] ^= 1
    with pytest.raises(Torn):
        read_record(bytes(sector))


def test_half_of_one_and_half_of_the_next_is_seen() -> None:
    first, second = sector_of(RECORD), sector_of(RECORD._replace(sequence=18, epoch=4))
    for at in range(1, 200):
        mixed = second[:at] + first[at:]
        if mixed not in (first, second):
            with pytest.raises(Torn):
                read_record(mixed)


@pytest.mark.parametrize("sector", [b"", bytes(SECTOR_BYTES), b"\xff" * SECTOR_BYTES, letter_sector(LETTER)])
def test_what_is_no_record_is_none(sector: bytes) -> None:
    with pytest.raises(Torn):
        read_record(sector)


def test_more_names_than_a_sector_holds() -> None:
    many = tuple(f"{'v' * 50}-{i}" for i in range(500))
    cut = read_record(sector_of(RECORD._replace(done=many))).done
    assert 0 < len(cut) < 500
    assert cut == many[: len(cut)]
    with pytest.raises(ValueError, match="500 VMs do not fit"):
        letter_sector(LETTER._replace(vms=many))


@pytest.mark.parametrize("name", ["", "../n1", "a/b", "N1", "a" * 64, "n1\n"])
def test_a_name_stays_in_the_folder(name: str) -> None:
    with pytest.raises(ValueError, match="no name"):
        file_of(name, "record")


def test_words_in_pieces() -> None:
    whole = line("grant", term=1, pools=["a"]) + line("ask")
    for size in (1, 3, len(whole)):
        lines, heard = Lines(), []
        for at in range(0, len(whole), size):
            heard += list(lines.feed(whole[at : at + size]))
        assert heard == [{"word": "grant", "term": 1, "pools": ["a"]}, {"word": "ask"}]


@pytest.mark.parametrize("bad", [b"\n", b"[]\n", b"{}\n", b'{"word":1}\n', b"x" * (1 << 21)])
def test_what_is_no_word_is_said(bad: bytes) -> None:
    with pytest.raises(BadWords):
        list(Lines().feed(bad))
