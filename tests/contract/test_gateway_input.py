"""Whatever is thrown at the API: a problem that says so, nothing sent to a service, nothing broken."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.contract.gateway_rig import rig

NAMES = [
    "name",
    "vcpus",
    "memory_mib",
    "disks",
    "nics",
    "start",
    "argv",
    "token",
    "node",
    "role",
    "projects",
    "deadline_s",
]
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=20)
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)
POSTS = [
    "/v1/vms", "/v1/vms/a/start", "/v1/vms/a/stop", "/v1/vms/a/exec", "/v1/vms/a/reset", "/v1/nodes/n/cordon", "/v1/join",
    "/v1/tokens", "/v1/tokens/join", "/v1/images",
]  # fmt: skip


class Target:
    """A gateway in a thread of its own, so that one serves all examples; `throw` is synchronous."""

    def __init__(self, folder: Path) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._rig = rig(folder)
        self.world = self._run(self._rig.__aenter__())
        self.client = self._run(self.world.client())

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def throw(self, method: str, path: str, body: Any = b"") -> None:
        """body: bytes as they are, else as JSON."""
        how: dict[str, Any] = {"content": body} if isinstance(body, bytes) else {"json": body}
        check(self._run(self.client.request(method, path, **how)), f"{method} {path} {body!r}")

    def close(self) -> None:
        self._run(self._rig.__aexit__(None, None, None))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    made = Target(tmp_path_factory.mktemp("pool"))
    yield made
    made.close()


def check(answer: httpx.Response, what: str) -> None:
    """A clear refusal, or a success where chance hit on a right body. Commands meet no rule here, hence 503 is possible."""
    if answer.status_code < 300:
        return
    assert 400 <= answer.status_code < 500 or answer.status_code == 503, f"{what}: {answer.status_code} {answer.text}"
    assert answer.headers["content-type"] == "application/problem+json", what
    body = answer.json()
    assert body["status"] == answer.status_code and body["detail"] and body["reason"], what


@settings(max_examples=60, deadline=None)
@given(body=st.one_of(JSON, st.binary(max_size=30)))
def test_random_bodies(target: Target, body: Any) -> None:
    for path in POSTS:
        target.throw("POST", path, body)
    sent = [command for _, command in target.world.compute.heard + target.world.io.heard]
    assert all(type(command).__name__ == "DefineVm" for command in sent), sent


@settings(max_examples=40, deadline=None)
@given(word=st.text(min_size=1, max_size=12))
def test_random_paths(target: Target, word: str) -> None:
    name = quote(word, safe="")
    for kind in ("vms", "nodes", "images", "tasks", "tokens"):
        target.throw("GET", f"/v1/{kind}/{name}")
        target.throw("DELETE", f"/v1/{kind}/{name}")
    for key in ("after", "limit"):
        target.throw("GET", f"/v1/events?{key}={name}")
