"""Disks that are images of a Ceph pool: made, cloned and removed by the `rbd` tool, opened by QEMU's own driver (librbd).

A disk on an image is a clone of the snapshot `image-NAME@asv` in the same Ceph pool, which an operator puts there once. Secrets
stay in the keyring that the configuration file names: neither the tool's command line nor QEMU's has one.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence

import msgspec

from proto.machine import Disk, DiskFormat
from proto.space import PoolKind
from services.node.drivers import CannotStart
from services.node.drivers.qemu.devices import Backing
from services.node.drivers.qemu.stores.settings import Rbd

MIB = 1 << 20
TOOL_S_MAX = 60.0
NOT_FOUND = 2
"""the tool's exit code, which is an errno"""
FEATURES = "layering,exclusive-lock,object-map,fast-diff"
SNAPSHOT = "asv"

type Run = Callable[[Sequence[str]], tuple[int, str, str]]
"""words → exit code, stdout, stderr; raises OSError"""


class _Info(msgspec.Struct):
    size: int


class _Status(msgspec.Struct):
    watchers: list[object] = []


def run(words: Sequence[str]) -> tuple[int, str, str]:
    try:
        done = subprocess.run(words, capture_output=True, text=True, errors="replace", timeout=TOOL_S_MAX, check=False)
    except FileNotFoundError:
        raise OSError(f"{words[0]} is not there: install the package ceph-common") from None
    except subprocess.TimeoutExpired:
        raise OSError(f"{words[0]} has not answered within {TOOL_S_MAX:g} s: see that the Ceph cluster is reached") from None
    return done.returncode, done.stdout, done.stderr


class RbdStore:
    kind = PoolKind.RBD

    def __init__(self, name: str, at: Rbd, run: Run = run) -> None:
        self._name = name
        self._at = at
        self._run = run

    def place(self, disk: Disk) -> str:
        return f"the RBD image {self._image(disk)}"

    def exists(self, disk: Disk) -> bool:
        return self._info(disk) is not None

    def make(self, disk: Disk, base: Backing | None) -> None:
        self._check(disk)
        if disk.image:
            source = f"{self._at.pool}/image-{disk.image}@{SNAPSHOT}"
            self._tool("clone", source, self._image(disk))
        else:
            self._tool("create", "--size", f"{disk.size_mib}M", "--image-feature", FEATURES, self._image(disk))

    def ready(self, disk: Disk, uid: int | None) -> None:
        self._check(disk)
        info = self._info(disk)
        if info is not None and info.size < disk.size_mib * MIB:
            self._tool("resize", "--no-progress", "--size", f"{disk.size_mib}M", self._image(disk))

    def is_open(self, disk: Disk) -> bool:
        code, out, said = self._run(self._words("status", "--format", "json", self._image(disk)))
        if code == NOT_FOUND:
            return False
        return bool(msgspec.json.decode(self._ok("status", code, out, said), type=_Status).watchers)

    def remove(self, disk: Disk) -> None:
        code, out, said = self._run(self._words("rm", "--no-progress", self._image(disk)))
        if code != NOT_FOUND:
            self._ok("rm", code, out, said)

    def _check(self, disk: Disk) -> None:
        if disk.format is not DiskFormat.RAW:
            raise CannotStart(f"{disk.name} in pool {self._name} is wanted as {disk.format}: disks of an RBD pool are raw")

    def _info(self, disk: Disk) -> _Info | None:
        code, out, said = self._run(self._words("info", "--format", "json", self._image(disk)))
        return None if code == NOT_FOUND else msgspec.json.decode(self._ok("info", code, out, said), type=_Info)

    def _tool(self, verb: str, *words: str) -> str:
        code, out, said = self._run(self._words(verb, *words))
        return self._ok(verb, code, out, said)

    def _ok(self, verb: str, code: int, out: str, said: str) -> str:
        if code:
            line = next((line for line in reversed(said.splitlines()) if line.strip()), f"it ended with {code}")
            raise CannotStart(f"rbd {verb} in pool {self._name}: {line.strip()[:300]}")
        return out

    def _words(self, verb: str, *words: str) -> list[str]:
        return ["rbd", "--conf", self._at.conf, "--id", self._at.user, verb, *words]

    def _image(self, disk: Disk) -> str:
        return f"{self._at.pool}/{disk.file}"
