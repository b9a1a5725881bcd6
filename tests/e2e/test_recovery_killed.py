"""While a guest's data comes home all is killed in turn, and nothing is lost."""

from __future__ import annotations

import pytest

from tests.chaos import recovery as chaos


@pytest.mark.timeout(600)
def test_nothing_is_lost_whatever_is_killed_while_data_comes_home() -> None:
    assert chaos.run(seed=7, count=6, mib=40) == []
