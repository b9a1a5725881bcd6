"""What is said to an agent, and what comes of it: one entry for each order and each question. Held to by covered.py."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from libs.common.messages import Message, encode, tag_of
from proto import backup_files, backup_keys, lease, mapping, node, plan, vitals
from proto.ioview import AskIo, VmIo
from proto.nodes import OrderLeave
from proto.pools import PoolsBeat
from tests.contract.driver_rigs import machine_spec
from tests.contract.node.rig import NODE


class Ordered(NamedTuple):
    """fact: what the agent says once it is done; "": nothing, as it has done as it was told. where: the field that names what
    it is about, so that an older one of that is refused."""

    kind: type[Message]
    body: dict[str, Any]
    fact: str
    where: str = "version"


class Asked(NamedTuple):
    """what: the last word of the subject. bad: what is well-formed, and answered by an error."""

    kind: type[Message]
    what: str
    body: dict[str, Any]
    answer: type[Any]
    bad: dict[str, Any]


def plain(value: Any) -> Any:
    return msgspec.msgpack.decode(encode(value))


def vm_order(generation: int = 1, version: int = 1, want: str = "running") -> dict[str, Any]:
    spec = plain(machine_spec(generation=generation)) if want != "gone" else None
    return {"type": "order_vm", "vm": "web-1", "generation": generation, "version": version, "want": want, "spec": spec}


DISK = plain(machine_spec("db").disks[0])
SAVED = {"disk": "root", "file": "db-root.b1-2.qcow2", "size_mib": 256, "bytes": 1, "sha256": "0" * 64}
ORDERS = (
    Ordered(node.OrderVm, vm_order(), "report_vm", "generation"),
    Ordered(node.OrderDisksRemoval, {"vm": "db", "version": 5, "disks": [DISK]}, "report_disks_removed"),
    Ordered(node.OrderDisksMerge, {"vm": "rests", "version": 5, "disks": [DISK]}, "report_disks_merged"),
    Ordered(
        node.OrderImageImport, {"image": "tiny", "version": 5, "pool": "default", "file": "tiny.qcow2", "format": "qcow2"},
        "report_image",
    ),
    Ordered(
        node.OrderBackup,
        {"vm": "web-1", "version": 5, "backup": "b1-2", "generation": 1, "pool": "default", "disks": plain(machine_spec().disks),
         "definition": {"shape": plain(machine_spec().shape), "disks": [], "nics": []}},
        "report_backup",
    ),
    Ordered(
        node.OrderBackupRemoval, {"vm": "unsaved", "version": 5, "backup": "b1-2", "pool": "default"}, "report_backup_removed",
    ),
    Ordered(
        node.OrderBackupVerify,
        {"vm": "read", "version": 5, "backup": "b1-2", "pool": "default", "backups": {"b1-2": [SAVED]}}, "report_backup_verified",
    ),
    Ordered(node.OrderImageRemoval, {"image": "gone", "version": 5, "pool": "default"}, "report_image_removed"),
    Ordered(
        node.OrderMemory, {"node": NODE, "version": 5, "targets": [{"vm": "web-1", "generation": 1, "target_mib": 100}]}, "",
    ),
    Ordered(
        plan.OrderPlan,
        {"node": NODE, "version": 5, "vms": [{"vm": "web-1", "generation": 1, "weight": 100, "pcpus": [0], "threads": [0],
                                              "sentence": "", "priority": "normal"}]},
        "report_plan",
    ),
    Ordered(node.OrderGreeting, {"node": NODE, "version": 5, "incarnation": 2}, "report_node", "incarnation"),
    Ordered(OrderLeave, {"node": NODE, "version": 9, "incarnation": 2}, "report_left", "incarnation"),
)  # fmt: skip
"""in the order in which they are said: the last two end what was of the incarnation before, and the agent's own stay"""
UNSAID = {
    "report_returned": "it comes of a lease that is refused",
    "report_regions": "it comes of a VM that starts",
    "report_memory": "it tells what a driver could not do, and the simulated one can do all: tests/contract/test_memory_areas.py",
}
"""facts that come of no order, and what they come of"""

SAVED_AT = {"vm": "web-1", "backup": "b1-2", "pool": "default", "until_us": 1 << 60}
DISK = "root"
NO_VM = {"vm": "nobody"}
VM = {"vm": "web-1"}
ASKS = (
    Asked(node.AskInfo, "info", VM, node.VmInfo, NO_VM),
    Asked(node.AskExec, "exec", VM | {"argv": ["true"]}, node.ExecResult, NO_VM | {"argv": ["true"]}),
    Asked(node.AskConsole, "console", VM | {"session": "s1"}, node.VmInfo, NO_VM | {"session": "s2"}),
    Asked(node.AskScreenshot, "screenshot", VM, node.Screenshot, NO_VM),
    Asked(backup_keys.AskKey, "key", {"forget": "main-0123456789abcdef"}, backup_keys.KeyAnswer, {}),
    Asked(AskIo, "io", VM, VmIo, NO_VM),
    Asked(mapping.AskTranslate, "translate", VM | {"gva": 4096}, mapping.Translation, NO_VM | {"gva": 4096}),
    Asked(mapping.AskMemory, "memory", VM, mapping.MemoryUse, NO_VM),
    Asked(plan.AskSchedule, "schedule", VM, plan.VmSchedule, NO_VM),
    Asked(vitals.AskPicture, "picture", VM | {"digest": "0" * 64}, node.Screenshot, NO_VM | {"digest": "1" * 64}),
    Asked(lease.AskRecords, "lease", {"nodes": [NODE], "pools": []}, lease.Records, {"nodes": [NODE], "pools": ["ffff"]}),
    Asked(
        lease.AskLetter, "lease", {"node": "n2", "pools": [], "number": 1, "term": 1, "epoch": 1, "vms": []}, lease.Records,
        {"node": "n2", "pools": ["ffff"], "number": 1, "term": 1, "epoch": 1, "vms": []},
    ),
    Asked(
        backup_files.AskFiles, "files", SAVED_AT | {"path": f"/{DISK}/written", "take": "f1-9"}, backup_files.FilesAnswer,
        SAVED_AT | {"path": f"/{DISK}/lost"},
    ),
    Asked(backup_files.AskFilesNext, "files-next", {"take": "f1-9"}, backup_files.FilesChunk, {"take": "f1-8"}),
    Asked(lease.AskProbe, "lease", {"addresses": {}}, lease.Probes, {"addresses": {"n2": "nowhere"}}),
)  # fmt: skip
TELEMETRY: dict[str, type[Any]] = {
    "beat": node.Beat, "memory": node.MemoryBeat, "cpu": plan.CpuBeat, "pools": PoolsBeat,
    "leases": lease.LeaseBeat, "vitals": vitals.VitalsBeat, "copies": node.CopiesBeat,
}  # fmt: skip
"""by the last word of its subject"""


def said(kind: type[Message], body: dict[str, Any]) -> dict[str, Any]:
    return {"type": tag_of(kind)} | body
