"""The words of a machine that was decided, held to their patterns where they are acted upon (machine.py says why only there)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from libs.common.messages import DNS_LABEL
from proto.machine import BACKUP_NAME, FILE_NAME, KEY_ID, MAC, Disk, MachineSpec, Nic, NicKind
from proto.networks import BRIDGE_NAME, MTU_MAX, MTU_MIN, QUEUES_MAX, VLAN_MAX


def fault_of(order: MachineSpec | Iterable[Disk]) -> str:
    """What is wrong with the words of a machine, or of disks, that an agent is to act upon, in one sentence; "" when nothing is.
    File names stay inside their folder, whoever decided them."""
    words = _words(order) if isinstance(order, MachineSpec) else (word for disk in order for word in _disk_words(disk))
    for what, pattern, word in words:
        if re.fullmatch(pattern, word) is None:
            return f"{what} {word[:80]!r} does not match {pattern}"
    return _number_fault(order.nics) if isinstance(order, MachineSpec) else ""


def _number_fault(nics: Iterable[Nic]) -> str:
    for nic in nics:
        if not 0 <= nic.vlan <= VLAN_MAX:
            return f"the VLAN of {nic.name} is {nic.vlan}, not 0 to {VLAN_MAX}"
        if nic.mtu and not MTU_MIN <= nic.mtu <= MTU_MAX:
            return f"the MTU of {nic.name} is {nic.mtu}, not 0 or {MTU_MIN} to {MTU_MAX}"
        if not 1 <= nic.queues <= QUEUES_MAX:
            return f"{nic.name} has {nic.queues} queues, not 1 to {QUEUES_MAX}"
    return ""


type _Word = tuple[str, str, str]
"""what it is, its pattern, the word"""


def _words(spec: MachineSpec) -> Iterator[_Word]:
    yield "vm", DNS_LABEL, spec.vm
    if spec.boot_image:
        yield "image", DNS_LABEL, spec.boot_image
    for disk in spec.disks:
        yield from _disk_words(disk)
    for nic in spec.nics:
        yield from (("NIC name", DNS_LABEL, nic.name), ("MAC address", MAC, nic.mac))
        if nic.kind is NicKind.BRIDGE:
            yield "bridge", BRIDGE_NAME, nic.bridge


def _disk_words(disk: Disk) -> Iterator[_Word]:
    yield from (("disk name", DNS_LABEL, disk.name), ("pool", DNS_LABEL, disk.pool))
    if disk.file or not disk.bus.is_cd:
        yield "disk file", FILE_NAME, disk.file
    if disk.seed is not None:
        yield "seed", FILE_NAME, disk.seed.file
    if disk.vars:
        yield "file of variables", FILE_NAME, disk.vars
    if disk.vars_of:
        yield "file of variables", FILE_NAME, disk.vars_of
    for layer in disk.layers:
        yield "disk file", FILE_NAME, layer.file
        if (origin := layer.origin) is not None:
            yield from (("VM of a backup", DNS_LABEL, origin.vm), ("backup", BACKUP_NAME, origin.backup))
            yield from (("pool of a backup", DNS_LABEL, origin.pool), ("key of a backup", KEY_ID, origin.key))
    if disk.image:
        yield "image", DNS_LABEL, disk.image
