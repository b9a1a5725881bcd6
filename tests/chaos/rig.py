"""An embedded cluster whose nodes are killed, held and cut off: its processes by node, and its guests with their writers."""

from __future__ import annotations

import base64
import contextlib
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP, Signals
from typing import Any

from services.cluster import control, vms
from services.cluster.layout import NODES, Layout
from services.cluster.processes import Mark, children_of, send
from services.cluster.record import load
from tests.bench.start import Embedded
from tests.chaos import records
from tests.replayed import assert_replayed

WAIT_S_MAX = 60.0
POLL_S = 0.05
WRITER = Path(__file__).parent / "writer.sh"
LOST_MAX = 1000
DISK_MIB = 64
RECORD_S = 0.4
"""A record takes about 60 ms of an emulated guest's CPU time."""
BEGIN = "cat >/run/writer.sh; setsid sh /run/writer.sh {} </dev/null >/run/writer.log 2>&1 &"
LOOK = "cd /run/writer 2>/dev/null && cat acknowledged 2>/dev/null; for f in failed intruder; do [ -e $f ] && cat $f; done; true"


class Unanswered(Exception):
    """The guest, or what leads to it, is not there by now."""


class HaCluster(Embedded):
    """In a folder of its own, until `close`."""

    @property
    def layout(self) -> Layout:
        return Layout(self.home)

    @contextlib.contextmanager
    def running(self) -> Iterator[HaCluster]:
        """Up until the block ends; then all that it decided is decided again, its VMs are killed and what it had is removed, but
        for what is mounted in its folder."""
        try:
            self.up()
            assert {f"watchdog-{node}" for node in NODES} <= self.marks().keys(), "a fault on a watchdog that is not known is none"
            yield self
            assert_replayed(self.home)
        finally:
            signal_all([*self.marks().values(), *self.guests()], SIGCONT)  # nobody stays held
            self.close()

    def apart(self) -> bool:
        """Whether its nodes live in network namespaces."""
        return load(self.layout.record).apart

    def marks(self) -> dict[str, Mark]:
        """Every process that the supervisor keeps, by its name."""
        record = load(self.layout.record)
        kept = record.children | {f"watchdog-{node}": child for node, child in record.watchdogs.items()}
        return {name: child.mark for name, child in kept.items() if child.mark is not None}

    def of_node(self, node: str) -> list[Mark]:
        """Its agent and watchdog."""
        return [mark for name, mark in self.marks().items() if node in name.split("-")]

    def watchdog(self, node: str) -> Mark | None:
        return self.marks().get(f"watchdog-{node}")

    def guests(self, node: str = "*") -> list[Mark]:
        """The QEMU processes of a node, or of all."""
        return [vm.mark for vm in vms.running(self.layout, node)]

    def central(self) -> list[Mark]:
        """What no node needs in order to run on: engines with their children, services, gateway."""
        named = [mark for name, mark in self.marks().items() if not set(name.split("-")) & set(NODES)]
        return [*named, *(child for mark in named for child in children_of(mark.pid))]

    # --- faults ---------------------------------------------------------------------------------------------------

    def lab(self, verb: str, node: str) -> str:
        """As `asvctl lab` does. Raises AssertionError with what the supervisor says."""
        for said in control.ask(self.layout, "lab", verb, node):
            assert said.ok, said.text
            return said.text
        raise AssertionError("the supervisor has gone")

    def power_off(self, node: str) -> float:
        """SIGKILL to agent, watchdog and QEMUs, all at once and by pid; then the supervisor is told to leave them off. When it
        began, by CLOCK_MONOTONIC."""
        hit = [*self.of_node(node), *self.guests(node)]
        began = time.monotonic()
        signal_all(hit, SIGKILL)
        self.lab("kill", node)
        return began

    def free_hand(self) -> None:
        """Faults follow one another faster than a real cluster's: the limit on how many nodes are declared lost at once would hold
        everything back. Returns once every node has a lease."""
        self.call("PUT", "/v1/ha", {"lost_max": LOST_MAX, "window_s": 1})
        self.wait_for(self.leased, "each node to have its lease")

    def leased(self) -> bool:
        """Whether every node is online and has its lease, by its own word and by its grantor's."""
        nodes, ha = self.call("GET", "/v1/nodes")["items"], self.call("GET", "/v1/ha")["nodes"]
        return all(one["online"] for one in nodes) and all(
            one["standing"] == "trusted" and one["granted"] and one["own"] == "held" for one in ha
        )

    def guard(self, vm: str, **settings: Any) -> None:
        """What `asvctl vm guard` sets."""
        self.call("PUT", f"/v1/vms/{vm}/guard", settings)

    def returned(self) -> None:
        """Waits until every node is there with its lease: those that were lost have come back clean."""
        self.wait_for(self.leased, "every node to be back")

    @contextlib.contextmanager
    def without_central(self) -> Iterator[None]:
        """Engines, services and gateway are ended at once. Until the end of the block nobody starts them again: the supervisor is
        held, which watches them."""
        supervisor = load(self.layout.record).supervisor
        assert supervisor is not None
        hit = self.central()
        with self.held([supervisor]):
            signal_all(hit, SIGKILL)
            yield

    @contextlib.contextmanager
    def held(self, marks: list[Mark]) -> Iterator[None]:
        """SIGSTOP, and SIGCONT at the end."""
        signal_all(marks, SIGSTOP)
        try:
            yield
        finally:
            signal_all(marks, SIGCONT)

    # --- guests ---------------------------------------------------------------------------------------------------

    def create(self, vm: str, node: str = "", image: str = "tiny", **more: Any) -> None:
        """One with a disk for a writer, started on that node where one is named; does not wait until it runs."""
        disks = [*([{"image": image}] if image else []), {"size_mib": DISK_MIB}]
        self.call("POST", "/v1/vms", {"name": vm, "vcpus": 1, "memory_mib": 128, "disks": disks, **more})
        self.call("POST", f"/v1/vms/{vm}/start", {"node": node} if node else {})

    def inside(self, vm: str, script: str, given: bytes = b"") -> str:
        """What a script in the guest says. Raises Unanswered."""
        body = {"argv": ["/bin/sh", "-c", script], "timeout_s": 5, "input_b64": base64.b64encode(given).decode()}
        try:
            said = self.call("POST", f"/v1/vms/{vm}/exec", body)
        except (AssertionError, OSError, ValueError) as error:
            raise Unanswered(f"{vm}: {error}") from error
        return base64.b64decode(said["stdout_b64"]).decode()

    def boot_id(self, vm: str) -> str:
        """Waits for a guest that is still booting."""

        def asked() -> str:
            with contextlib.suppress(Unanswered):
                return self.inside(vm, "cat /proc/sys/kernel/random/boot_id").strip()
            return ""

        return self.wait_for(asked, f"{vm} to answer from inside")

    def begin_writer(self, vm: str, generation: int) -> None:
        """Nothing happens where one writes already. Raises Unanswered."""
        words = f"{vm} {generation} /dev/vdb {records.LANE_BLOCKS} {RECORD_S}"
        self.inside(vm, BEGIN.format(words), WRITER.read_bytes())

    def writer(self, vm: str) -> list[str]:
        """[`BOOT LANE COUNT` of the newest record that is flushed, then what went wrong]; []: nobody writes. Raises Unanswered."""
        return self.inside(vm, LOOK).splitlines()

    def disk(self, vm: str) -> Path:
        """The file of the disk that its writer writes to."""
        return self.layout.pool / "disks" / f"{vm}-disk1.qcow2"

    # --- waiting --------------------------------------------------------------------------------------------------

    def wait_for[T](self, look: Callable[[], T | None], what: str, wait_s_max: float = WAIT_S_MAX) -> T:
        """Looks again and again until there is something. Raises AssertionError."""
        end, last = time.monotonic() + wait_s_max, ""
        while time.monotonic() < end:
            try:
                if found := look():
                    return found
            except (AssertionError, OSError, ValueError, KeyError) as error:  # what answers is just being started again
                last = str(error)
            time.sleep(POLL_S)
        raise AssertionError(f"waited {wait_s_max:.0f} s for {what} {last}")

    def events(self, after: int = 0) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        while True:
            page = self.call("GET", f"/v1/events?after={after}")["items"]
            found += page
            if not page:
                return found
            after = page[-1]["position"]

    def position(self) -> int:
        return int(self.call("GET", "/v1/cluster")["position"])


def signal_all(marks: list[Mark], number: Signals) -> None:
    for mark in marks:
        send(mark, number)


@contextlib.contextmanager
def ha_cluster(*words: str) -> Iterator[HaCluster]:
    """Up until the block ends; then its VMs are killed and its folder is removed."""
    one = HaCluster(*words)
    try:
        with one.running():
            yield one
    finally:
        shutil.rmtree(one.home, ignore_errors=True)
