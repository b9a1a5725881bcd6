"""Which revision is the first to decide otherwise: found by few looks, and where some cannot say."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.host.replay.revisions import search
from services.host.replay.words import DIFFERS, SAME, UNREADABLE, read


@given(st.integers(1, 200).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n - 1))))
def test_halving_finds_it(case: tuple[int, int]) -> None:
    count, first = case
    revisions = [str(n) for n in range(count)]
    found = search(revisions, lambda one: DIFFERS if int(one) >= first else SAME)
    assert (found.first, found.unsure) == (str(first), ())
    assert found.looks <= count.bit_length()


@given(st.lists(st.sampled_from([SAME, UNREADABLE]), max_size=12), st.lists(st.sampled_from([DIFFERS, UNREADABLE]), max_size=12))
def test_those_that_cannot_say_are_passed_over_and_named(well: list[int], ill: list[int]) -> None:
    ends = [*well, *ill, DIFFERS]
    found = search([str(n) for n in range(len(ends))], lambda one: ends[int(one)])
    first, last_well = ends.index(DIFFERS), max((n for n, end in enumerate(ends) if end == SAME), default=-1)
    assert found.first == str(first)
    assert found.unsure == tuple(str(n) for n in range(last_well + 1, first))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--bisect"], "say --condition"), (["--condition", "x-1.a == 1"], "is for --bisect"),
        (["--good", "a", "--service", "ha"], "say --bisect"),
        (["--service", "lorry"], "no service `lorry`: compute"),
        (["--step", "--json"], "by itself"), (["--service", "ha", "--from", "-1"], "from 1 on"),
        (["--bisect", "--good", "a"], "say whose decisions"),
    ],
)  # fmt: skip
def test_words_that_make_no_sense(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        read(["--log", "x", *words])
    assert end.value.code == 2 and said in capsys.readouterr().err
