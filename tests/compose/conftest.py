"""One engine and one cluster for all tests of this folder."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.compose import stand_ins
from tests.compose.engine import Engine, NoEngine
from tests.compose.shipped import Shipped


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    try:
        found = Engine.found_or_started()
    except NoEngine as error:
        pytest.skip(str(error))
    with found:
        print(f"base images: {stand_ins.ensure(found)}")
        yield found
        found.tidy()


@pytest.fixture(scope="session")
def shipped(engine: Engine) -> Iterator[Shipped]:
    cluster = Shipped(engine, f"asv-test-{os.getpid()}")
    try:
        cluster.up()
        yield cluster
    finally:
        cluster.down()
