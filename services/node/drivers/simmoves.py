"""A part of SimHost: guests that come from another host's process and go to another's. The hosts meet in their pool."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.node.drivers import CannotMove, CannotStart, DriverError, MachineChanged, NoSuchVm, simnet
from services.node.drivers.simmeet import Guest
from services.node.drivers.simpool import Holder
from services.node.drivers.simvm import Due, SimDone, SimVm

if TYPE_CHECKING:
    from services.node.drivers.simhost import SimHost


def receive(host: SimHost, due: Due, vm: SimVm | None) -> SimDone:
    """A process that waits."""
    spec = due.spec
    assert spec is not None
    if vm is not None:
        if vm.spec.generation == spec.generation:
            return SimDone(due.vm, "receive", machine=vm.machine())
        said = f"generation {vm.spec.generation} of {due.vm} still runs here; kill it first"
        return SimDone(due.vm, "receive", CannotStart(said))
    try:
        host.pool.judge(spec, host.node)
        simnet.check(spec.nics, host.bridges)
        host.pool.come(spec, due.move)
        if host.random.random() < host.params.start_fails:
            raise CannotStart(f"QEMU ended at once: {due.vm}: simulated failure")
    except CannotStart as refused:
        return SimDone(due.vm, "receive", refused)
    address = f"sim:{host.node}/{spec.vm}/{spec.generation}"
    vm = host.vms[due.vm] = SimVm(spec, host.next_pid(), starting=False, status="incoming", address=address)
    vm.pool = host.pool
    host.pool.waiting[address] = vm
    if host.pool.meeting is not None:
        host.pool.meeting.wait(address)
    return SimDone(due.vm, "receive", machine=vm.machine())


def act(host: SimHost, due: Due, vm: SimVm | None) -> SimDone:
    """send, recall, activate."""
    if vm is None:
        return SimDone(due.vm, due.what, NoSuchVm(f"no process of {due.vm} on {host.node}"))
    try:
        match due.what:
            case "send":
                _send(host, due, vm)
            case "recall":
                _recall(host, vm)
            case "activate":
                _activate(host, vm)
    except DriverError as refused:
        return SimDone(due.vm, due.what, refused)
    return SimDone(due.vm, due.what, machine=vm.machine() if due.what != "send" else None)


def moved(host: SimHost, due: Due, vm: SimVm) -> MachineChanged:
    """The guest was sent whole, or was not."""
    target = host.pool.waiting.get(vm.sent_to)
    fails = host.random.random() < host.params.move_fails
    if target is None and host.pool.meeting is not None and not fails and vm.status in ("running", "paused"):
        target = SimVm(vm.spec, 0, starting=False)  # in another process: what is told of it goes by the meeting
        guest = Guest(vm.boots, vm.running_us, vm.balloon_mib, vm.busy_pct)
        target.whole = not host.pool.meeting.hand(vm.sent_to, guest)
    if target is None or target.whole or fails or vm.status not in ("running", "paused"):
        said = f"nobody waits at {vm.sent_to}" if target is None else "the stream broke off"
        vm.sent_to = ""
        return MachineChanged(due.vm, vm.spec.generation, vm.status, unsent=said)
    target.whole, target.boots, target.running_us = True, vm.boots, vm.running_us
    target.hung_us, target.stuck, target.idle, target.agentless = vm.hung_us, vm.stuck, vm.idle, vm.agentless
    target.blue = vm.blue
    _copy(host, vm, target)
    target.balloon_mib, target.busy_pct = vm.balloon_mib, vm.busy_pct
    vm.before, vm.status = vm.status, "sent"
    host.pool.close(Holder(host.node, due.vm, vm.spec.generation), disks_only=True)
    sent_mib, total_ms = vm.spec.shape.memory_mib, host.params.move_us // 1000
    return MachineChanged(
        due.vm, vm.spec.generation, "sent", sent_mib=sent_mib, total_ms=total_ms, paused_us=due.at_us
    )


def _copy(host: SimHost, vm: SimVm, target: SimVm) -> None:
    """The disks that go along are equal now."""
    names = {disk.name for disk in vm.along}
    there = tuple(disk for disk in target.spec.disks if disk.name in names)
    if target.pool is not None and there:
        host.pool.copy(vm.along, target.pool, there)
        target.origin = host.pool, vm.along


def killed(host: SimHost, vm: SimVm | None) -> None:
    """By a verb: notes when that ends a guest whose other process was ended so as well."""
    pool = host.pool
    if vm is None:
        return
    if vm.status == "incoming" and vm.whole and not vm.stale:
        if vm.left:
            pool.thrown.append((vm.spec.vm, vm.spec.generation))
        pool.killed.add(vm.address)
    if vm.status == "sent":
        if (target := pool.waiting.get(vm.sent_to)) is not None:
            target.left = True
        elif vm.sent_to in pool.killed:
            pool.thrown.append((vm.spec.vm, int(vm.sent_to.rpartition("/")[2])))


def _send(host: SimHost, due: Due, vm: SimVm) -> None:
    if vm.sent_to == due.address:
        return
    if vm.status not in ("running", "paused"):
        raise CannotMove(f"{due.vm} is {vm.status}")
    vm.sent_to, vm.sending, vm.along = due.address, vm.sending + 1, due.move.disks
    half = host.params.move_us // 2
    wait_us = half + host.random.randrange(2 * half + 1)
    host.plan(due.at_us + wait_us, "moved", due.vm, pid=vm.pid, sending=vm.sending)


def _recall(host: SimHost, vm: SimVm) -> None:
    if vm.status == "sent":
        host.pool.open(vm.spec, Holder(host.node, vm.spec.vm, vm.spec.generation))
        vm.status = vm.before
        if (target := host.pool.waiting.get(vm.sent_to)) is not None:
            target.stale = True
        elif host.pool.meeting is not None:
            host.pool.meeting.run_on(vm.sent_to)
    vm.sent_to = ""


def _activate(host: SimHost, vm: SimVm) -> None:
    if vm.status != "incoming":
        return
    _look(host, vm)
    if not vm.whole:
        raise CannotMove(f"the guest of {vm.spec.vm} has not come in whole")
    host.pool.open(vm.spec, Holder(host.node, vm.spec.vm, vm.spec.generation))
    host.pool.take(vm.spec, host.node)
    if vm.stale:
        host.pool.stale_runs.append((vm.spec.vm, vm.spec.generation))
    gone(host, vm)
    if vm.origin is not None:
        pool, disks = vm.origin
        pool.forsake(disks)
    vm.status, vm.address = "paused", ""


def _look(host: SimHost, vm: SimVm) -> None:
    """Whether its guest has come in from another process."""
    meeting = host.pool.meeting
    if meeting is None or vm.whole or (guest := meeting.take(vm.address)) is None:
        return
    vm.whole, vm.boots, vm.running_us = True, guest.boots, guest.running_us
    vm.balloon_mib, vm.busy_pct, vm.stale = guest.balloon_mib, guest.busy_pct, meeting.stale(vm.address)


def gone(host: SimHost, vm: SimVm) -> None:
    """Nobody waits there any more."""
    host.pool.waiting.pop(vm.address, None)
    if host.pool.meeting is not None:
        host.pool.meeting.leave(vm.address)
