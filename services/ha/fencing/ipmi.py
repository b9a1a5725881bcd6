"""A BMC by IPMI over the network (RMCP+), with the program ipmitool. Each call is one process with a session of its own, ended with
what waits for it. The password is handed over in the environment of that process, which only its own user can read."""

from __future__ import annotations

import asyncio
import os
import re
import shutil

from proto.fence import Device, Power
from services.ha.fencing.device import (
    CannotSwitch,
    OddAnswer,
    Seen,
    Unreachable,
    Unusable,
    WrongCredentials,
)

PROGRAM = "ipmitool"
PORT = "623"
POWER = re.compile(r"^Chassis Power is (\w+)", re.MULTILINE)
GUID = re.compile(r"^System GUID\s*:\s*([0-9A-Fa-f-]{32,36})", re.MULTILINE)
NOBODY = re.compile(r"^[0f-]+$")
"""a GUID of zeros or ones names no machine"""
DENIED = (
    "RAKP 2 HMAC is invalid",
    "unauthorized name",
    "unauthorized role",
    "Insufficient privilege",
    "RAKP 2 message indicates",
)


class IpmiDevice:
    def __init__(self, device: Device, password: str) -> None:
        self._device = device
        self._password = password

    async def prepare(self) -> None:
        pass

    async def look(self) -> Seen:
        said = await self._ask("chassis power status\nmc guid\n")
        power = POWER.search(said)
        if power is None:
            raise OddAnswer(f"{self._device.address} does not say whether the power is on: {_last(said)}")
        guid = GUID.search(said)
        known = guid is not None and not NOBODY.match(guid[1].lower())
        identity = f"guid {guid[1].lower()}" if guid is not None and known else ""
        return Seen({"on": Power.ON, "off": Power.OFF}.get(power[1].lower(), Power.UNKNOWN), identity)

    async def check(self) -> None:
        """The session was opened as an administrator's: the BMC has no finer rights, and no question for them."""

    async def cut(self) -> None:
        await self._order("chassis power off", "Chassis Power Control: Down/Off")

    async def restore(self) -> None:
        await self._order("chassis power on", "Chassis Power Control: Up/On")

    async def _order(self, words: str, awaited: str) -> None:
        said = await self._ask(f"{words}\n")
        if awaited not in said:
            raise CannotSwitch(f"{self._device.address} refuses `{words}`: {_last(said)}")

    async def _ask(self, commands: str) -> str:
        """What it prints. Raises DeviceError where there was no session."""
        if shutil.which(PROGRAM) is None:
            remedy = "install it beside the ha service (Debian: ipmitool)"
            raise Unusable("IPMI devices are asked with ipmitool, which is not there", remedy)
        process = await asyncio.create_subprocess_exec(
            *self._argv(), env={"PATH": os.environ.get("PATH", os.defpath), "IPMI_PASSWORD": self._password},
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        try:
            printed, _ = await process.communicate(commands.encode())
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        said = printed.decode(errors="replace")
        if "Unable to establish" in said:
            raise self._no_session(said)
        return said

    def _no_session(self, said: str) -> WrongCredentials | Unreachable:
        at = self._device.address
        if any(sign in said for sign in DENIED):
            remedy = "set it with those of a user with the administrator's privilege over LAN"
            return WrongCredentials(
                f"the device at {at} does not take the user {self._device.user} with that password", remedy
            )
        return Unreachable(f"nobody speaks IPMI at {at}", "its address, and whether IPMI over LAN is on there")

    def _argv(self) -> tuple[str, ...]:
        host, _, port = (
            self._device.address.rpartition(":")
            if _has_port(self._device.address)
            else (self._device.address, "", PORT)
        )
        suite = ("-C", str(self._device.cipher)) if self._device.cipher else ()
        where = ("-I", "lanplus", "-H", host.strip("[]"), "-p", port, "-U", self._device.user, "-E", *suite)
        return (PROGRAM, *where, "-v", "-N", "1", "-R", "2", "exec", "/dev/stdin")


def _has_port(address: str) -> bool:
    return bool(re.search(r"(?:^[^:\[\]]+|\]):\d+$", address))


def _last(said: str) -> str:
    """The last line, for a sentence."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return lines[-1][:200] if lines else "nothing"
