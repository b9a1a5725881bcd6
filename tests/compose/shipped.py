"""The shipped docker-compose.yml, brought up on a real engine and driven as its users do: compose, the docker SDK, HTTP."""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import docker
import httpx

from services.cluster.ports import choose
from tests.compose.engine import Engine

CHECKOUT = Path(__file__).parents[2]
FILES = ("docker-compose.yml", "tests/compose/override.yml")
WAIT_S_MAX = 120.0
POLL_S = 0.2
JOBS = frozenset({"keys", "prepare", "tiny"})


class Shipped:
    """One project of the compose file on an engine. `up` builds, starts and waits."""

    def __init__(self, engine: Engine, project: str) -> None:
        self.engine = engine
        self.project = project
        self.port = choose({}, ("gateway",))["gateway"]
        self.settings: dict[str, str] = {}
        """what compose reads beside the port"""
        self.client: Any = docker.DockerClient(base_url=engine.host, timeout=60)
        self.api = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=30)

    def compose(self, *words: str, shown: bool = False) -> str:
        files = [part for file in FILES for part in ("-f", file)]
        settings = {"ASV_PORT": str(self.port)} | self.settings
        os.environ.update(settings)
        try:
            return self.engine.docker(
                "compose", "--progress", "plain", "-p", self.project, *files, *words, cwd=CHECKOUT, shown=shown
            )
        finally:
            for name in settings:
                del os.environ[name]

    def up(self) -> None:
        """Raises DockerFailed, AssertionError with the logs of what did not become healthy."""
        self.compose("build", "-q", shown=True)
        self.compose("up", "-d", "--no-build", shown=True)
        self.settled()

    def settled(self) -> None:
        """Waits until the jobs have ended well and all else is healthy."""
        self.until(lambda: all(self.state(c) == "exited 0" for c in self.containers(JOBS)), "the jobs have ended well")
        self.until(lambda: all(self.state(c) == "healthy" for c in self.others()), "all are healthy")
        token = self.container("gateway").exec_run(["cat", "/var/lib/asv/admin.token"]).output.decode().strip()
        self.api.headers["Authorization"] = f"Bearer {token}"

    def down(self) -> None:
        """With its volumes."""
        self.compose("down", "-v", "-t", "20")
        self.api.close()

    def containers(self, names: frozenset[str] = frozenset()) -> list[Any]:
        """Of this project; only those of the named services where any are named."""
        found = self.client.containers.list(all=True, filters={"label": f"com.docker.compose.project={self.project}"})
        return [c for c in found if not names or c.labels["com.docker.compose.service"] in names]

    def others(self) -> list[Any]:
        return [c for c in self.containers() if c.labels["com.docker.compose.service"] not in JOBS]

    def container(self, service: str) -> Any:
        (found,) = self.containers(frozenset({service}))
        return found

    @staticmethod
    def state(container: Any) -> str:
        """`healthy`, `starting`, `unhealthy`; `exited CODE`; as docker has it."""
        container.reload()
        state = container.attrs["State"]
        if state["Status"] == "exited":
            return f"exited {state['ExitCode']}"
        return str(state.get("Health", {}).get("Status", state["Status"]))

    def run(self, service: str, *argv: str) -> str:
        """A command in a service's container; its output. Raises AssertionError with what it said."""
        code, said = self.container(service).exec_run(list(argv))
        assert code == 0, f"{service}: {argv}: {said.decode(errors='replace')}"
        return str(said.decode())

    def get(self, path: str) -> Any:
        answer = self.api.get(path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(self, path: str, body: object, key: str = "") -> dict[str, Any]:
        """The answer to a command that is accepted. key: by which a repetition is known as such."""
        answer = self.api.post(path, json=body, headers={"Idempotency-Key": key} if key else {})
        assert answer.status_code in (200, 202), answer.text
        found: dict[str, Any] = answer.json()
        return found

    def inside(self, vm: str, *argv: str) -> str:
        """What a command in the guest prints. Raises AssertionError."""
        answer = self.post(f"/v1/vms/{vm}/exec", {"argv": list(argv), "timeout_s": 20})
        assert answer["exit_code"] == 0, answer
        return base64.b64decode(answer["stdout_b64"]).decode().strip()

    def until[T](self, look: Callable[[], T | None], what: str) -> T:
        """Looks until there is something. Raises AssertionError after WAIT_S_MAX, with the state and last words of all."""
        end = time.monotonic() + WAIT_S_MAX
        last: BaseException | None = None
        while time.monotonic() < end:
            try:
                if found := look():
                    return found
            except (AssertionError, httpx.TransportError, docker.errors.APIError) as error:
                last = error
            time.sleep(POLL_S)
        raise AssertionError(f"not within {WAIT_S_MAX:.0f} s: {what}; {last or ''}\n{self.account()}")

    def account(self) -> str:
        """State and last words of every container."""
        lines = []
        for one in self.containers():
            words = one.logs(tail=15).decode(errors="replace")
            lines.append(f"--- {one.labels['com.docker.compose.service']}: {self.state(one)}\n{words}")
        return "\n".join(lines)
