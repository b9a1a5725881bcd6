"""Windows of an export that backups lie in: which one is given, whatever is claimed, and claims as they are read."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.node.drivers import DriverError
from services.node.drivers.qemu.backups import claims
from services.node.drivers.qemu.backups.claims import LEAST, UNIT, Claim, cooling, fitting, parse, taken
from services.node.drivers.qemu.backups.windows import worst


def mib(offset: int, size: int) -> Claim:
    return Claim(offset * UNIT, size * UNIT)


@pytest.mark.parametrize(
    ("size", "there", "wanted", "got"),
    [
        (1024, [], 100, mib(1, 100)),
        (1024, [mib(1, 100)], 100, mib(101, 100)),
        (1024, [mib(1, 10), mib(40, 20), mib(110, 10)], 30, mib(60, 30)),  # the smallest gap that is large enough
        (1024, [Claim(UNIT, 65536)], 10, mib(2, 10)),  # a window begins at a whole MiB
        (101, [], 200, mib(1, 50)),  # half of what there is
        (101, [mib(1, 70)], 200, None),  # which is too little to be worth it
        (101, [mib(1, 100)], 1, None),
        (101, [mib(1, 70)], 5, mib(71, 5)),
        (1, [], 1, None),
    ],
)
def test_a_window_is_given_where_one_fits(size: int, there: list[Claim], wanted: int, got: Claim | None) -> None:
    assert fitting(size * UNIT, there, wanted * UNIT) == got


@given(
    size=st.integers(1, 300), wishes=st.lists(st.tuples(st.integers(1, 90 * UNIT), st.integers(1, 100), st.booleans()), max_size=30)
)
def test_no_two_windows_ever_have_a_byte_in_common(size: int, wishes: list[tuple[int, int, bool]]) -> None:
    """Given, cut to a part, and let go of, in any order; none touches the label, or lies beyond the end."""
    there: list[Claim] = []
    for wanted, percent, goes in wishes:
        if goes and there:
            there.pop(percent % len(there))
            continue
        if (one := fitting(size * UNIT, there, wanted)) is None:
            continue
        assert one.offset >= UNIT and one.end <= size * UNIT and one.offset % UNIT == 0
        assert one.size >= min(wanted, LEAST)
        assert all(one.end <= other.offset or other.end <= one.offset for other in there)
        there.append(Claim(one.offset, max(1, one.size * percent // 100)))


def test_what_is_no_claim_is_not_taken_for_one(tmp_path: Path) -> None:
    for data in (b"", b"QFI\xfb", b"{}", b'{"offset":0,"size":5}', b'{"offset":1048577,"size":5}', b'{"offset":1048576,"size":0}'):
        with pytest.raises(DriverError, match=r"x\.qcow2"):
            parse("x.qcow2", data)
    folder = tmp_path / "backups" / "web-1" / ".making-b1-1"
    folder.mkdir(parents=True)
    claims.write(folder / "a.qcow2", mib(1, 5), 0o600)
    claims.write(folder / "b.qcow2.new", mib(9, 5), 0o600)
    (folder / "a.vars").touch()
    assert taken(tmp_path, 0) == [mib(1, 5), mib(9, 5)]
    (folder / "c.qcow2").write_bytes(b"")
    with pytest.raises(DriverError, match=r"c\.qcow2 does not say where it lies"):
        taken(tmp_path, 0)


def test_what_a_killed_qemu_wrote_to_is_not_given_for_a_while(tmp_path: Path) -> None:
    (tmp_path / "backups").mkdir()
    claims.cool(tmp_path, mib(1, 5), 1_000_000)
    claims.cool(tmp_path, mib(7, 5), 2_000_000)
    assert taken(tmp_path, 3_000_000) == [mib(1, 5), mib(7, 5)]
    assert [one.claim for one in cooling(tmp_path, 1_000_000 + claims.COOL_US)] == [mib(7, 5)]
    assert cooling(tmp_path, 2_000_000 + claims.COOL_US) == []
    assert cooling(tmp_path, 0) == [], "a clock that was far ahead holds nothing for ever"
    (tmp_path / "backups" / ".cooling").write_bytes(b"[")
    assert cooling(tmp_path, 3_000_000) == []


def test_what_a_disk_takes_at_worst_is_more_than_it_and_not_much() -> None:
    for mib in (1, 64, 4096, 64 << 20):
        size = mib << 20
        assert size < worst(size) < size + size // 1000 + (9 << 20)
