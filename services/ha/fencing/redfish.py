"""A BMC's Redfish service, by the library sushy. Each call makes its own connection and asks anew.

The password goes with each request (HTTP basic, inside TLS): a session would have to be opened, and BMCs have few of them, which
may be taken when the node is to be cut. The library tries nothing twice here.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import tempfile
from collections.abc import Iterator
from typing import Any

from proto.fence import Device, Power
from services.ha.fencing.device import (
    AlreadySo,
    BadCertificate,
    CannotSwitch,
    DeviceError,
    NoSuchSystem,
    OddAnswer,
    Seen,
    TimedOut,
    Unreachable,
    WrongCredentials,
)
from services.ha.fencing.threads import Threads

BAD_REQUEST, CONFLICT = 400, 409
NAMED_MAX = 5

logging.getLogger("sushy").setLevel(logging.CRITICAL)  # what goes wrong is raised as well, and told once


class RedfishDevice:
    def __init__(self, device: Device, password: str, threads: Threads) -> None:
        self._device = device
        self._password = password
        self._threads = threads

    async def prepare(self) -> None:
        await asyncio.to_thread(importlib.import_module, "sushy")

    async def look(self) -> Seen:
        return await self._threads.run(self._look)

    async def check(self) -> None:
        await self._threads.run(self._check)

    async def cut(self) -> None:
        await self._threads.run(lambda: self._switch("ForceOff", Power.OFF))

    async def restore(self) -> None:
        await self._threads.run(lambda: self._switch("On", Power.ON))

    # --- in a thread ------------------------------------------------------------------------------------------------------

    def _look(self) -> Seen:
        with self._system() as system:
            return seen(system)

    def _check(self) -> None:
        with self._system() as system:
            if "ForceOff" not in _kinds_of_reset(system):
                raise CannotSwitch(
                    f"the system at {self._device.address} cannot be forced off", "another device, or newer firmware"
                )

    def _switch(self, reset: str, wanted: Power) -> None:
        import sushy

        with self._system() as system:
            try:
                system.reset_system(sushy.ResetType(reset))
            except sushy.exceptions.HTTPError as error:
                if error.status_code not in (BAD_REQUEST, CONFLICT):
                    raise
                system.refresh(force=True)
                if seen(system).power == wanted:
                    raise AlreadySo(f"it is {wanted} already") from error
                raise CannotSwitch(f"the device refuses to switch {wanted} (HTTP {error.status_code})") from error

    @contextlib.contextmanager
    def _system(self) -> Iterator[Any]:
        """The system as it is now. Raises DeviceError, also for what goes wrong in the body."""
        import sushy
        from sushy.auth import BasicAuth
        from sushy.connector import Connector

        url, at = self._device.address.rstrip("/"), self._device.address
        try:
            with self._verified() as verify:
                bounds = {
                    "server_side_retries": 1,
                    "server_side_retries_delay": 0.01,
                    "default_request_timeout": self._device.call_s,
                }
                connector = Connector(url, verify=verify, **bounds)
                try:
                    auth = BasicAuth(self._device.user, self._password)
                    root = sushy.Sushy(url, auth=auth, connector=connector, verify=verify)
                    yield root.get_system(self._path(root))
                finally:
                    connector.close()
        except sushy.exceptions.ConnectionError as error:
            raise _no_connection(at, error) from error
        except sushy.exceptions.AccessError as error:
            said = f"the device at {at} does not take the user {self._device.user} with that password"
            raise WrongCredentials(said, "set it with the right ones") from error
        except sushy.exceptions.ResourceNotFoundError as error:
            raise NoSuchSystem(
                f"{at} has no Redfish service, or no such system there", "its address and system"
            ) from error
        except sushy.exceptions.HTTPError as error:
            raise OddAnswer(f"{at} answers with HTTP {error.status_code}") from error
        except sushy.exceptions.SushyError as error:
            raise OddAnswer(f"{at} answers with something that is no Redfish: {type(error).__name__}") from error

    def _path(self, root: Any) -> str:
        """Of the system that is meant. Raises NoSuchSystem."""
        paths = [str(path) for path in root.get_system_collection().members_identities]
        wanted = self._device.system
        found = [path for path in paths if wanted in ("", path, path.rstrip("/").rsplit("/", 1)[-1])]
        if len(found) == 1:
            return found[0]
        named = ", ".join(path.rsplit("/", 1)[-1] for path in paths[:NAMED_MAX]) or "none"
        which = f"no system {wanted}" if wanted else f"{len(paths)} systems"
        raise NoSuchSystem(f"{self._device.address} has {which}; it has: {named}", "name the node's own with --system")

    @contextlib.contextmanager
    def _verified(self) -> Iterator[bool | str]:
        """What the library checks TLS by: yes, no, or a file of certificates."""
        if not self._device.ca:
            yield not self._device.insecure
            return
        with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
            file.write(self._device.ca)
            file.flush()
            yield file.name


def seen(system: Any) -> Seen:
    """Only the plain words count; `PoweringOff` is neither."""
    state = str(system.json.get("PowerState", ""))
    power = {"On": Power.ON, "Off": Power.OFF}.get(state, Power.UNKNOWN)
    uuid, serial = (str(system.json.get(key) or "").strip() for key in ("UUID", "SerialNumber"))
    words = (f"uuid {uuid.lower()}" if uuid else "", f"serial {serial}" if serial else "")
    return Seen(power, " ".join(word for word in words if word))


def _kinds_of_reset(system: Any) -> set[str]:
    return {str(kind.value) for kind in system.get_allowed_reset_system_values()}


def _no_connection(at: str, error: BaseException) -> DeviceError:
    """By what the HTTP library said underneath."""
    from requests import exceptions as http

    below: BaseException | None = error.__context__
    if isinstance(below, http.SSLError):
        remedy = "give its certificate with --ca, or the address that its certificate is for"
        return BadCertificate(f"the certificate at {at} is not one that is trusted, or is another host's", remedy)
    if isinstance(below, http.Timeout):
        return TimedOut(f"no answer from {at} in time")
    return Unreachable(f"nobody answers at {at}", "its address, and whether the control plane reaches that network")
