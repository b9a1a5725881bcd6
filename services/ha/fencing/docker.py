"""The container of a node, by the engine that runs it (docker SDK). Killing it ends all that it runs: its agent and its QEMUs are
in its PID namespace.

A container that was killed by an order is not started again by its restart policy (the engine counts it as stopped by hand). One
that waits to be started again counts as on.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
from collections.abc import Iterator
from typing import Any

from proto.fence import Device, Power
from services.ha.fencing.device import (
    AlreadySo,
    CannotSwitch,
    NoSuchSystem,
    OddAnswer,
    Seen,
    TimedOut,
    Unreachable,
    Unusable,
    WrongCredentials,
)
from services.ha.fencing.threads import Threads

DENIED, NOT_FOUND, CONFLICT = (401, 403), 404, 409
ENDED = ("exited", "created", "dead")


class DockerDevice:
    def __init__(self, device: Device, threads: Threads) -> None:
        self._device = device
        self._threads = threads

    async def prepare(self) -> None:
        await asyncio.to_thread(importlib.import_module, "docker")

    async def look(self) -> Seen:
        return await self._threads.run(self._look)

    async def check(self) -> None:
        """Whoever may ask an engine may also order it; but what is killed has to take everything with it."""
        await self._threads.run(self._check)

    async def cut(self) -> None:
        await self._threads.run(self._cut)

    async def restore(self) -> None:
        await self._threads.run(self._start)

    # --- in a thread ------------------------------------------------------------------------------------------------------

    def _look(self) -> Seen:
        with self._engine() as api:
            return seen(api.inspect_container(self._device.system))

    def _check(self) -> None:
        with self._engine() as api:
            mode = (api.inspect_container(self._device.system).get("HostConfig") or {}).get("PidMode")
            if mode:
                said = (
                    f"the container {self._device.system} has the PID namespace `{mode}`: what it runs would outlive it"
                )
                raise CannotSwitch(said, "a container with a PID namespace of its own")

    def _cut(self) -> None:
        with self._engine() as api:
            found = api.inspect_container(self._device.system)
            if seen(found).power == Power.OFF:
                raise AlreadySo("it does not run")
            api.kill(found["Id"], "SIGKILL")

    def _start(self) -> None:
        with self._engine() as api:
            found = api.inspect_container(self._device.system)
            if seen(found).power == Power.ON:
                raise AlreadySo("it runs")
            api.start(found["Id"])

    @contextlib.contextmanager
    def _engine(self) -> Iterator[Any]:
        """Raises DeviceError, also for what goes wrong in the body."""
        import docker
        from docker import errors
        from requests import exceptions as http

        at, name = self._device.address, self._device.system
        api: Any = None
        try:
            api = docker.APIClient(base_url=at, timeout=max(1, round(self._device.call_s)), version="auto")
            yield api
        except errors.NotFound as error:
            raise NoSuchSystem(
                f"the engine at {at} has no container {name}", "its name or id, as `docker ps` says"
            ) from error
        except errors.APIError as error:
            if error.status_code in DENIED:
                raise WrongCredentials(
                    f"the engine at {at} refuses to be asked", "a socket without an authorization plugin"
                ) from error
            if error.status_code == CONFLICT:
                raise CannotSwitch(f"the engine at {at} refuses: {error.explanation}") from error
            raise OddAnswer(f"the engine at {at} answers with HTTP {error.status_code}: {error.explanation}") from error
        except http.Timeout as error:
            raise TimedOut(f"no answer from {at} in time") from error
        except (errors.DockerException, http.RequestException) as error:
            if "Permission denied" in str(error):
                remedy = "let the user of the ha service be in the group of that socket"
                raise Unusable(f"the socket {at} may not be opened by this service", remedy) from error
            raise Unreachable(
                f"no docker engine answers at {at}", "its address; in compose: mount its socket into ha"
            ) from error
        finally:
            if api is not None:
                api.close()


def seen(found: dict[str, Any]) -> Seen:
    """From an engine's inspection of a container."""
    state = found.get("State") or {}
    alive = any((state.get("Running"), state.get("Paused"), state.get("Restarting"), state.get("Pid")))
    power = Power.ON if alive else Power.OFF if state.get("Status") in ENDED else Power.UNKNOWN
    id = str(found.get("Id") or "")
    return Seen(power, f"container {id}" if id else "")
