"""Changes that cannot be, through the whole stack: each is refused with its reason and what would be right, and leaves the log, the
process and the pool's files as they were."""

from __future__ import annotations

import json
from typing import Any

import pytest

from services.node.drivers.simhost import SimHost
from tests.contract import test_cli_gateway
from tests.contract.cli_rig import Said
from tests.contract.test_cli_gateway import Ctl, api, ctl

__all__ = ["api", "ctl"]
RUNNING = [
    ("disk detach w disk0", "BOOT_DISK", "boots from"),
    ("disk detach w disk9", "DEVICE_UNKNOWN", "it has disk0, disk1"),
    ("disk detach w nic0", "DEVICE_UNKNOWN", "name a disk that it has"),
    ("nic detach w nic9", "DEVICE_UNKNOWN", "it has nic0"),
    ("disk resize w disk1 32MiB", "SHRINKING", "at least 64 MiB"),
    ("disk resize w disk9 1GiB", "DEVICE_UNKNOWN", "disk9"),
    ("disk set w disk9 --iops 5", "DEVICE_UNKNOWN", "disk9"),
    ("nic set w nic9 --link down", "DEVICE_UNKNOWN", "nic9"),
    ("disk attach w", "BAD_DEVICE", "neither size nor image"),
    ("disk attach w --image nope", "IMAGE_UNKNOWN", "nope"),
    ("vm set w --vcpus 64", "BAD_SHAPE", "at most 4 while it runs; more needs a restart"),
    ("vm set w --memory 131MiB", "BAD_SHAPE", "130 MiB or 132 MiB"),
    ("vm set w --memory 64MiB", "NOT_STOPPED", "at least 128 MiB, or stop it first"),
    ("vm set w --memory 1TiB", "BAD_SHAPE", "more needs a restart"),
    ("vm set w --vcpus-max 32", "NOT_STOPPED", "stop it, then change its maximum"),
    ("disk attach nobody --size 1GiB", "UNKNOWN", "nobody"),
]
PAUSED = [
    ("disk attach w --size 64MiB", "BUSY", "resume it first"),
    ("disk detach w disk1", "BUSY", "resume it first"),
    ("disk resize w disk1 128MiB", "BUSY", "resume it first"),
    ("disk set w disk1 --iops 5", "BUSY", "resume it first"),
    ("nic attach w", "BUSY", "resume it first"),
    ("nic detach w nic0", "BUSY", "resume it first"),
    ("nic set w nic0 --link down", "BUSY", "resume it first"),
    ("vm set w --vcpus 2", "NOT_RUNNING", "resume it first"),
]


@pytest.fixture(autouse=True)
def hosts(monkeypatch: pytest.MonkeyPatch) -> list[SimHost]:
    """The simulated hosts that the stack stands on."""
    made: list[SimHost] = []

    class Noted(SimHost):
        def __init__(self, *words: Any, **more: Any) -> None:
            super().__init__(*words, **more)
            made.append(self)

    monkeypatch.setattr(test_cli_gateway, "SimHost", Noted)
    return made


async def everything(ctl: Ctl, host: SimHost) -> tuple[object, ...]:
    """What no refusal may change: events, processes, files and who holds them."""
    events = [json.loads(line) for line in (await ctl("events", "--json")).out.splitlines()]
    own = [e for e in events if e["stream"].startswith(("vm-", "devices-", "ledger-"))]  # a node's plan has a time of its own
    return own, {name: vm.spec for name, vm in host.vms.items()}, dict(host.pool.disks), dict(host.pool.holders)


async def ran(ctl: Ctl, *words: str) -> Said:
    said = await ctl(*words, "--wait")
    assert said.code == 0, said
    return said


async def refused(ctl: Ctl, host: SimHost, table: list[tuple[str, str, str]]) -> None:
    for words, reason, sentence in table:
        before = await everything(ctl, host)
        said = await ctl(*words.split())
        assert said.code != 0 and reason in said.err and sentence in said.err, (words, said)
        assert await everything(ctl, host) == before, words


async def test_what_cannot_be_changes_nothing(ctl: Ctl, hosts: list[SimHost]) -> None:
    (host,) = hosts
    await ran(ctl, "vm", "create", "w", "--memory", "128MiB", "--disk", "64MiB", "--disk", "64MiB")
    await refused(ctl, host, RUNNING)
    await ran(ctl, "vm", "pause", "w")
    await refused(ctl, host, PAUSED)
    await ran(ctl, "vm", "resume", "w")
    await ran(ctl, "disk", "attach", "w", "--size", "64MiB")
    await ran(ctl, "disk", "detach", "w", "disk2", "--delete")
    again = [("disk detach w disk2", "DEVICE_UNKNOWN", "it has disk0, disk1")]
    await refused(ctl, host, again)


async def test_a_vm_has_so_many_devices_and_no_more(ctl: Ctl, hosts: list[SimHost]) -> None:
    (host,) = hosts
    await ran(ctl, "vm", "create", "w", "--memory", "128MiB", "--disk", "64MiB")
    for _ in range(8):
        await ran(ctl, "disk", "attach", "w", "--size", "1MiB")
    full = [
        ("disk attach w --size 1MiB", "TOO_MANY", "stop it, attach, and start it"),
        ("nic attach w", "TOO_MANY", "stop it, attach, and start it"),
    ]
    await refused(ctl, host, full)
    await ran(ctl, "vm", "stop", "w", "--force")
    for _ in range(32 - 9):
        await ran(ctl, "disk", "attach", "w", "--size", "1MiB")
    await refused(ctl, host, [("disk attach w --size 1MiB", "TOO_MANY", "a VM has at most 32")])
    await ran(ctl, "vm", "start", "w")
    assert len(host.vms["w"].spec.disks) == 32


@pytest.mark.parametrize(("number", "said"), [(33, "at most 32"), (1000, "64")])
async def test_a_thousand_disks_are_refused_before_anything_is_made(
    ctl: Ctl, hosts: list[SimHost], number: int, said: str
) -> None:
    (host,) = hosts
    wish = [word for _ in range(number) for word in ("--disk", "1MiB")]
    before = await everything(ctl, host)
    answer = await ctl("vm", "create", "many", *wish)
    assert answer.code != 0 and said in answer.err, answer
    assert await everything(ctl, host) == before and (await ctl("vm", "show", "many")).code == 3
