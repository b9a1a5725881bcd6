"""Tasks as the events tell them: true steps, and an end only when it was seen."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from libs.common.messages import Event, Meta, NodeId, Recorded, VmId, encode, tag_of
from proto import compute as c
from proto import io, memory
from proto.machine import DiskFormat, Priority
from services.gateway.model import ReadModel
from services.gateway.tasks import Task, Tasks
from tests.contract.gateway_rig import defined, start_requested, started

VM, N1, N2 = VmId("a"), NodeId("n1"), NodeId("n2")


class Log:
    """Appends events to a read model, with the metadata that a host would write."""

    def __init__(self) -> None:
        self.model = ReadModel()

    def add(self, *events: Event, command: str = "k", correlation: str = "k", **meta: Any) -> None:
        for event in events:
            position = self.model.position + 1
            row = Meta(command, "", correlation, meta.get("actor", "user:u"), 0, project=meta.get("project", "default"))
            name = getattr(event, "vm", None) or getattr(event, "image", None) or getattr(event, "node", "")
            kind = "image" if "image" in tag_of(type(event)) else "node" if "node" in tag_of(type(event)) else "vm"
            self.model.apply(
                Recorded(
                    position, f"{kind}-{name}", 1, tag_of(type(event)), 1, position * 10, encode(event), encode(row)
                )
            )

    def task(self, id: str = "k") -> Task:
        return self.model.tasks.all[id]


def reserved(node: NodeId = N1) -> memory.MemoryReserved:
    return memory.MemoryReserved(node=node, vm=VM, generation=1, memory_mib=256, reserved_mib=256, capacity_mib=1000)


def granted() -> io.DevicesGranted:
    return io.DevicesGranted(vm=VM, node=N1, generation=1, disks=(), nics=())


def failed(node: NodeId = N1, generation: int = 1) -> c.VmStartFailed:
    return c.VmStartFailed(vm=VM, node=node, generation=generation, sentence="no memory left")


def stopped(cause: c.GoneCause = c.GoneCause.ORDERED) -> c.VmStopped:
    return c.VmStopped(vm=VM, node=N1, generation=1, cause=cause)


def test_the_story_of_a_start() -> None:
    log = Log()
    log.add(defined("a"), command="d", correlation="d")
    log.add(start_requested("a"))
    seen = [(log.task().step, log.task().state)]
    for event in (reserved(), granted()):
        log.add(event, command="memory:1-2:0")
        seen.append((log.task().step, log.task().state))
    log.add(started("a"), command="x", correlation="another", actor="node:n1")
    seen.append((log.task().step, log.task().state))
    assert seen == [
        ("placed on n1", "running"),
        ("256 MiB reserved on n1", "running"),
        ("0 disks and 0 NICs granted", "running"),
        ("a runs on n1", "done"),
    ]
    assert (log.task().started, log.task().ended, log.task().kind) == (20, 50, "start")
    assert [step.at_us for step in log.task().steps] == [20, 30, 40, 50]


def test_the_next_node_after_a_denial() -> None:
    log = Log()
    log.add(defined("a"), command="d", correlation="d")
    log.add(start_requested("a"))
    log.add(failed(), start_requested("a", "n2", 2))
    assert (log.task().state, log.task().step, log.task().ended) == ("running", "placed on n2", 0)
    log.add(failed(N2, 2))
    assert (log.task().state, log.task().sentence) == ("failed", "no memory left")


def test_create_with_start_is_one_task() -> None:
    log = Log()
    log.add(defined("a"), command="k.define", correlation="k")
    assert (log.task().state, log.task().awaits, log.task().kind) == ("running", "k", "create")
    log.add(start_requested("a"))
    assert (log.task().state, log.task().awaits) == ("running", "")
    log.add(started("a"), command="f", correlation="f", actor="node:n1")
    assert (log.task().state, log.task().kind, log.task().sentence) == ("done", "create", "a runs on n1")


def test_create_alone_is_done_at_once() -> None:
    log = Log()
    log.add(defined("a"))
    assert (log.task().state, log.task().sentence) == ("done", "a is defined")


def test_a_stop_before_the_launch_ends_both() -> None:
    log = Log()
    log.add(defined("a"), command="d", correlation="d")
    log.add(start_requested("a"), command="s", correlation="s")
    log.add(failed(), command="k", correlation="k")
    assert log.task("s").state == "failed"
    assert (log.task("k").kind, log.task("k").state) == ("stop", "done")


def test_a_stop_during_the_launch_ends_the_start_as_failed() -> None:
    log = Log()
    log.add(defined("a"), command="d", correlation="d")
    log.add(start_requested("a"), command="s", correlation="s")
    log.add(c.VmStopRequested(vm=VM, node=N1, generation=1, deadline_s=5))
    assert (log.task("s").state, log.task().state) == ("running", "running")
    log.add(stopped(), command="f", correlation="f", actor="node:n1")
    assert (log.task("s").state, log.task().state) == ("failed", "done")
    assert "ordered" in log.task().sentence


def test_a_crash_is_nobodys_task() -> None:
    log = Log()
    log.add(defined("a"), start_requested("a"), started("a"))
    log.add(stopped(c.GoneCause.CRASHED), command="f", correlation="f", actor="node:n1")
    assert set(log.model.tasks.all) == {"k"} and log.task().state == "done"


@pytest.mark.parametrize(
    ("wish", "fact", "kind"),
    [
        (c.VmPauseRequested(vm=VM, generation=1), c.VmPaused(vm=VM, generation=1), "pause"),
        (c.VmResumeRequested(vm=VM, generation=1), c.VmResumed(vm=VM, generation=1), "resume"),
        (c.VmResetRequested(vm=VM, generation=1, resets=1), c.VmReset(vm=VM, generation=1, resets=1), "reset"),
    ],
)
@pytest.mark.parametrize("ends", ["seen", "stopped"])
def test_wishes_end_when_they_are_seen(wish: Event, fact: Event, kind: str, ends: str) -> None:
    log = Log()
    log.add(defined("a"), start_requested("a"), started("a"), command="s", correlation="s")
    log.add(wish)
    assert (log.task().kind, log.task().state) == (kind, "running")
    log.add(fact if ends == "seen" else stopped(), command="f", correlation="f", actor="node:n1")
    assert log.task().state == ("done" if ends == "seen" else "failed")


def test_delete_waits_for_the_disks() -> None:
    log = Log()
    log.add(defined("a"), start_requested("a"), granted(), started("a"), stopped(), command="s", correlation="s")
    log.add(c.VmDeleted(vm=VM, node="n1"))
    assert log.task().state == "running"
    log.add(io.DisksRemovalRequested(vm=VM, node=N1, disks=()), command="io:1-9:0")
    assert log.task().state == "running"
    log.add(io.DevicesRemoved(vm=VM), command="f", correlation="f")
    assert (log.task().state, log.task().sentence) == ("done", "a and its disks are gone")


def test_delete_without_disks_is_done_at_once() -> None:
    log = Log()
    log.add(defined("a"), command="s", correlation="s")
    log.add(c.VmDeleted(vm=VM))
    assert log.task().state == "done"


def test_images() -> None:
    log = Log()
    log.add(io.ImageImportRequested(image="i", node=N1, pool="default", file="f", format=io.ImageFormat.RAW), project="p")
    assert (log.task().kind, log.task().state, log.task().project) == ("import", "running", "p")
    info = io.ImageInfo(format=DiskFormat.RAW, size_mib=3, sha256="a" * 64)
    log.add(io.ImageImported(image="i", pool="default", info=info), command="f", correlation="f")
    assert log.task().sentence == "i is ready (raw, 3 MiB)"
    log.add(io.ImageDeleteRequested(image="i", node=N1, pool="default"), command="x", correlation="x")
    log.add(io.ImageDeleted(image="i"), command="f", correlation="f")
    assert (log.task("x").kind, log.task("x").state) == ("delete-image", "done")
    assert not log.model.images.all


def test_bounded() -> None:
    tasks = Tasks(tasks_max=3)
    for i in range(5):
        tasks.unchanged(f"t{i}", "start", "a", "default", i, "nothing had to change")
    assert list(tasks.all) == ["t2", "t3", "t4"]


def test_running_tasks_are_forgotten_last() -> None:
    log = Log()
    log.model.tasks.tasks_max = 2
    log.add(defined("a"), start_requested("a"), command="s", correlation="s")
    for i in range(3):
        log.model.tasks.unchanged(f"t{i}", "stop", "b", "default", i, "nothing had to change")
    assert list(log.model.tasks.all) == ["s", "t2"]


def test_said_twice_changes_nothing() -> None:
    log = Log()
    log.add(defined("a"), start_requested("a"))
    row = Recorded(1, "vm-a", 1, "vm_defined", 1, 10, encode(defined("a")), encode(Meta("k", "", "k", "user:u", 0)))
    log.model.apply(row)
    assert log.model.position == 2 and log.task().state == "running"
    with pytest.raises(ValueError, match="position 4 cannot follow 2"):
        log.model.apply(msgspec.structs.replace(row, position=4))


def test_unknown_types_are_skipped() -> None:
    log = Log()
    log.model.apply(Recorded(1, "x-1", 1, "something_new", 1, 10, b"\x80", encode(Meta("k", "", "k", "user:u", 0))))
    assert log.model.position == 1
    log.add(defined("a"))
    assert log.model.vms.all["a"].priority == Priority.NORMAL
