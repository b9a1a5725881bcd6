"""A plugin of pytest: each test runs without the guard of high availability that it is named for (elsewhere.py).

python -m pytest -p tests.sim.without NODE-ID…
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.sim.elsewhere import ELSEWHERE


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        next(one for one in ELSEWHERE if item.nodeid.startswith(one.test)).taken_away(patch)
        yield
