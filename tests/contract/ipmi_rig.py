"""IPMI: OpenIPMI's BMC (ipmi_sim), with a script for the machine's power."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

import pytest

from proto.fence import Device, DeviceKind
from services.ha.fencing.simulated import Machines, Quirk
from tests.contract.fence_rigs import REF, USER, Program, free_port
from tests.servers import wait_until

CHASSIS = """#!/bin/sh
# ipmi_sim asks: get power | set power 0|1. What it says and does follows the word in `quirk`.
cd "$(dirname "$0")"
quirk=$(cat quirk); verb=$1; shift
hang() { while [ "$(cat quirk)" = $quirk ]; do sleep 0.1; done; }
if [ $verb = get ]; then
  power=$(cat power)
  case $quirk in
  liar) [ -e ordered ] && power=0;;
  flicker) [ -e ordered ] && ! [ -e said ] && power=0 && touch said;;
  mute) [ -e ordered ] && hang;;
  silent) hang;;
  esac
  echo "power:$power"
else
  touch ordered
  case $quirk in liar|deaf|flicker) ;; *) echo $2 > power;; esac
  [ $quirk = late ] && hang
fi
exit 0
"""
BMC = """name "n1"
set_working_mc 0x20
  startlan 1
    addr 127.0.0.1 {port}
    priv_limit admin
    allowed_auths_admin none md2 md5 straight
    guid {guid}
  endlan
  chassis_control "{program}"
  user 2 true "{user}" "{password}" admin 10 md2 md5 straight
"""
EMULATED = "mc_setbmc 0x20\nmc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02\nmc_enable 0x20\n"


class IpmiRig:
    """ipmi_sim on loopback, with a script for the machine's power; a second one answers for another machine."""

    quirks = frozenset(Quirk)
    password = "s3cret-of-all"  # at most sixteen bytes, by the standard

    def __init__(self, folder: Path) -> None:
        for program in ("ipmitool", "ipmi_sim"):
            if shutil.which(program) is None:
                pytest.skip(f"{program} is not installed (Debian: ipmitool, openipmi)")
        self.machines = Machines()
        self.folder = folder
        script = folder / "chassis"
        script.write_text(CHASSIS)
        script.chmod(0o755)
        self.ports = [free_port(socket.SOCK_DGRAM), free_port(socket.SOCK_DGRAM)]
        self._quirk = Quirk.NONE
        self.reset()
        guids = ("a123456789abcdefa123456789abcdef", "b123456789abcdefa123456789abcdef")
        self._bmcs = [self._start(port, guid) for port, guid in zip(self.ports, guids, strict=True)]

    def _start(self, port: int, guid: str) -> Program:
        folder = self.folder / str(port)
        folder.mkdir()
        words = BMC.format(port=port, guid=guid, program=self.folder / "chassis", user=USER, password=self.password)
        (folder / "lan.conf").write_text(words)
        (folder / "emu").write_text(EMULATED)
        (folder / "state").mkdir()
        started = Program(["ipmi_sim", "-c", "lan.conf", "-f", "emu", "-s", "state", "-n"], folder)
        wait_until(lambda: _answers_udp(port), started.process, started.log, "ipmi_sim")
        return started

    def device(self) -> Device:
        port = self.ports[1 if self._quirk == Quirk.STRANGER else 0]
        call_s = 1.0 if self._quirk in (Quirk.SILENT, Quirk.MUTE, Quirk.LATE) else 3.0
        return Device(
            kind=DeviceKind.IPMI, address=f"127.0.0.1:{port}", user=USER, password=REF, cipher=3, call_s=call_s
        )

    def elsewhere(self) -> Device:
        at = f"127.0.0.1:{free_port(socket.SOCK_DGRAM)}"
        return Device(kind=DeviceKind.IPMI, address=at, user=USER, password=REF, cipher=3, call_s=2.0)

    def truth(self) -> bool:
        return (self.folder / "power").read_text().strip() == "1"

    def reset(self) -> None:
        self.behave(Quirk.NONE)
        (self.folder / "power").write_text("1\n")

    def behave(self, quirk: Quirk) -> None:
        self._quirk = quirk
        for mark in ("ordered", "said"):
            (self.folder / mark).unlink(missing_ok=True)
        (self.folder / "quirk").write_text(quirk)

    def close(self) -> None:
        for bmc in self._bmcs:
            bmc.close()


def _answers_udp(port: int) -> bool:
    """By the presence ping of RMCP."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ask:
        ask.settimeout(0.2)
        ask.sendto(bytes.fromhex("0600ff06000011be80000000"), ("127.0.0.1", port))
        try:
            return bool(ask.recv(100))
        except OSError:
            return False
