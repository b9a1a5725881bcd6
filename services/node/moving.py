"""What an agent does about a guest that comes from, or goes to, another node. Pure; a part of model.Agent.

    target   order incoming ── receive ──▶ incoming ── order running ── activate ──▶ paused ── resume ──▶ running
    source   order migrating ── send ──▶ sending ──▶ sent ── on disk ── kill ──▶ gone (migrated)
                                            └ order running, deadline: recall ─▶ running

That a guest was sent whole is on disk before its process is ended, and before anybody is told: from then on it never runs here
under that generation, whatever is ordered, and it is that record which says `migrated` also after the agent was killed. As long as
it is not on disk a newer order recalls the guest, and it runs on here.
"""

from __future__ import annotations

import msgspec

from proto.compute import GoneCause, ReportVm, Seen
from proto.node import OrderVm, Want
from services.node.drivers import Machine, MachineChanged, Move
from services.node.effects import Kept
from services.node.vm import Vm


def has_left(vm: Vm) -> bool:
    """Its guest is on disk as sent away, and its process is still there."""
    if vm.machine is None or not vm.kept.sent or vm.machine.generation != vm.kept.generation:
        return False
    vm.cause = GoneCause.MIGRATED
    return True


def next_step(vm: Vm, order: OrderVm, machine: Machine, now_us: int) -> str | Kept | None:
    """The verb that a migration wants next ("": none, and nothing else either), what is to be put on disk first, or None where the
    VM has nothing to do with one."""
    if machine.status == "incoming":
        return "" if order.want is Want.INCOMING else "activate"
    if order.want is Want.INCOMING:
        return ""
    if order.want is not Want.MIGRATING:
        return "recall" if machine.sending or machine.status == "sent" else None
    if machine.status == "shutdown":
        return None
    if machine.status == "sent":
        return msgspec.structs.replace(vm.kept, sent=order.incoming)
    vm.sending_us = vm.sending_us or now_us
    if machine.sending:
        return "recall" if now_us >= vm.sending_us + order.deadline_s * 1_000_000 else ""
    return "" if vm.unsent else "send"


def way(order: OrderVm) -> Move:
    """What goes along, and what keeps it secret."""
    disks = order.spec.disks if order.spec is not None else ()
    return Move(
        disks=tuple(disk for disk in disks if disk.pool in order.copied and not disk.bus.is_cd),
        pool_ids=order.copied,
        incoming=order.incoming or order.generation,
        peer_key=order.peer_key,
        whole=order.whole,
    )


def done(vm: Vm, verb: str, error: str, machine: Machine | None) -> None:
    """send, recall or activate has ended."""
    wanted = vm.order is not None and vm.order.want is Want.MIGRATING
    if verb == "send":
        if error:
            vm.unsent = error
        elif vm.machine is not None and vm.machine.status != "sent" and not vm.unsent:
            vm.machine = msgspec.structs.replace(vm.machine, sending=True)
    elif machine is not None and vm.machine is not None:
        vm.machine = machine
        if verb == "recall" and wanted and vm.order is not None:
            deadline_s = vm.order.deadline_s
            vm.unsent = f"its memory was not sent within {deadline_s} s: the guest writes faster than the network takes"
        if verb == "activate":
            vm.resets = 0


def changed(vm: Vm, change: MachineChanged) -> None:
    """Sending has ended, well or not."""
    assert vm.machine is not None
    vm.machine = msgspec.structs.replace(vm.machine, status=change.status, sending=False)
    vm.sent = change if change.status == "sent" else None
    if change.unsent and vm.order is not None and vm.order.want is Want.MIGRATING:
        vm.unsent = change.unsent


def went_on(vm: Vm, now_us: int) -> None:
    vm.resumed_us = vm.resumed_us or now_us


def told(fact: ReportVm, vm: Vm) -> ReportVm:
    """The report, with what it has to say about a migration."""
    machine, sent = vm.machine, vm.sent
    if machine is not None and machine.status == "incoming":
        return msgspec.structs.replace(fact, address=machine.address)
    if machine is not None:
        return msgspec.structs.replace(
            fact,
            sending=machine.sending or machine.status == "sent",
            unsent=vm.unsent,
            resumed_us=vm.resumed_us,
        )
    if not vm.kept.sent or fact.seen is not Seen.GONE:
        return fact
    return msgspec.structs.replace(
        fact,
        cause=GoneCause.MIGRATED,
        moved_to=vm.kept.sent,
        sentence="",
        sent_mib=sent.sent_mib if sent else 0,
        total_ms=sent.total_ms if sent else 0,
        paused_us=sent.paused_us if sent else 0,
    )
