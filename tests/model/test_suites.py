"""`make test` runs what there is: a test file that no suite names is never seen to fail."""

from __future__ import annotations

from tests.suites import HERE, PURE, SLOW, files, halves

ELSEWHERE = ("compose",)
"""rooms with a target of their own in the Makefile"""


def test_every_test_file_is_in_one_suite() -> None:
    first, second = halves("contract")
    run = [*first, *second, *files("e2e"), *(str(HERE / name) for name in SLOW)]
    run += [str(path) for room in PURE for path in (HERE / room).rglob("test_*.py")]
    there = [str(path) for path in HERE.rglob("test_*.py") if path.relative_to(HERE).parts[0] not in ELSEWHERE]
    assert sorted(run) == sorted(there)


def test_the_services_are_in_both_halves() -> None:
    counts = [sum("/test_messages_of_" in name for name in half) for half in halves("contract")]
    assert sum(counts) >= 4 and max(counts) - min(counts) <= 1, counts
