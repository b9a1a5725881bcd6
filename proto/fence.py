"""ha: fence devices (streams `fence-NODE`): what can cut a node's power, and whether it was seen off.

A device says nothing that is believed at once. It is tested when it is set and every hour; one that was never tested well, or whose
test failed since, is an alarm and proves nothing. `FenceConfirmed` is decided from what was read, by these rules (judge.py):
the order was taken, then the power was read as off twice or more, apart, of the very machine that answered at the test, while the
node itself kept silent. A time-out, an error or one read alone is never a confirmation.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec

from libs.common.messages import Command, Event, Name, NodeId, Tick, Value
from libs.common.secrets import Secret

Word = Annotated[str, msgspec.Meta(max_length=255, pattern=r"^[^\x00-\x1f\x7f]*$")]
Pem = Annotated[str, msgspec.Meta(max_length=32_768)]
CallSeconds = Annotated[float, msgspec.Meta(ge=0.2, le=30)]
Cipher = Annotated[int, msgspec.Meta(ge=0, le=19)]
TRIES_MAX = 3
"""of one attempt, before it has failed"""
READS_MAX = 16
"""told of one try, the latest"""


class Refusal(StrEnum):
    NODE_UNKNOWN = "NODE_UNKNOWN"
    NO_DEVICE = "NO_DEVICE"
    NOT_TESTED = "NOT_TESTED"
    BAD_DEVICE = "BAD_DEVICE"
    SAME_DEVICE = "SAME_DEVICE"
    BUSY = "BUSY"


class DeviceKind(StrEnum):
    """redfish: a BMC's web API. ipmi: a BMC over the network (ipmitool). docker: an engine that runs the node's container.
    simulated: in the memory of the process, for demonstrations and tests."""

    REDFISH = "redfish"
    IPMI = "ipmi"
    DOCKER = "docker"
    SIMULATED = "simulated"


class Device(Value):
    """address: `https://bmc1` (redfish), `bmc1` or `bmc1:623` (ipmi), `unix:///run/docker.sock` or `tcp://host:2376` (docker), any
    word (simulated). system: which of those that the address serves: a system's id (redfish; empty: there is only one), a
    container's name or id (docker). ca: certificates in PEM that its TLS is checked by; empty: the machine's own. insecure: TLS is
    not checked, or there is none. cipher: the suite of IPMI's RMCP+, as 17; 0: as the BMC offers, which takes a question more.
    call_s: how long one question may take."""

    kind: DeviceKind
    address: Word
    system: Word = ""
    user: Word = ""
    password: Secret | None = None
    ca: Pem = ""
    insecure: bool = False
    cipher: Cipher = 0
    call_s: CallSeconds = 3.0

    @property
    def place(self) -> tuple[str, str, str]:
        """Two nodes cannot have the same."""
        return self.kind, self.address, self.system


class Power(StrEnum):
    """unknown: it answered with something else, such as that it is switching."""

    ON = "on"
    OFF = "off"
    UNKNOWN = "unknown"


class PowerRead(Value):
    """One question and its answer. after_ms: since the order was sent, by the asker's monotonic clock. identity: of the machine
    that the device speaks of (its UUID and serial number, a container's id). error: it did not answer, and nothing is known."""

    at_us: int
    after_ms: int
    power: Power = Power.UNKNOWN
    identity: str = ""
    error: str = ""


class Ordered(StrEnum):
    """What became of the order. taken: the device said yes. needless: it refused because the power is as wanted. failed: it
    refused otherwise. silent: no answer in time, so that it may have been carried out or not. not-sent: for a reason."""

    TAKEN = "taken"
    NEEDLESS = "needless"
    FAILED = "failed"
    SILENT = "silent"
    NOT_SENT = "not-sent"


class Want(StrEnum):
    OFF = "off"
    ON = "on"


# --- wishes ------------------------------------------------------------------------------------------------------------


class SetFence(Command):
    """The node's device. It is tested at once. known: whether there is such a node; twin: another node with a device of the same
    place; driver: the node's, as only a simulated node may have a simulated device. All are filled in by ha's own view."""

    node: Name
    device: Device
    known: bool = False
    twin: str = ""
    driver: str = ""


class TestFence(Command):
    """Ask it now."""

    __test__ = False  # no test class, whatever pytest thinks of its name

    node: Name


class RemoveFence(Command):
    node: Name


class FenceNode(Command):
    """Somebody's order to cut the node's power. epoch, boot_id: of its lease now, spoke_us: when it was heard last, moved_us: when
    its record in a pool was seen to move last, now_us: what time it is; filled in by ha."""

    node: Name
    reason: Word = ""
    epoch: int = 0
    boot_id: str = ""
    spoke_us: int = 0
    moved_us: int = 0
    now_us: int = 0


class PowerOnNode(Command):
    node: Name
    now_us: int = 0


class OrderFence(Tick):
    """The grantor's: the node is suspected, in this epoch of its lease. Where no device was tested well, nothing follows. sentence:
    why."""

    node: Name
    epoch: int
    boot_id: str
    sentence: str = ""
    spoke_us: int = 0
    moved_us: int = 0


class DropFence(Tick):
    """What was asked of the device is not wanted any more, as the node shows itself again."""

    node: Name
    sentence: str


class NoteTest(Tick):
    """What the device answered. number: of the test that was asked for. twin: another node whose device answered for the same
    machine; spoke_us: when the node was heard last."""

    node: Name
    number: int
    power: Power = Power.UNKNOWN
    identity: str = ""
    error: str = ""
    remedy: str = ""
    twin: str = ""
    spoke_us: int = 0


class NoteFence(Tick):
    """How one try of an attempt went. reads: in order, those before the order have after_ms < 0. twin as above; spoke_us: when
    the node showed itself last, on any path; moved_us: when its record in a pool was seen to move last."""

    node: Name
    attempt: int
    ordered: Ordered
    reads: tuple[PowerRead, ...] = ()
    error: str = ""
    twin: str = ""
    spoke_us: int = 0
    moved_us: int = 0


class DoubtFence(Tick):
    """The node spoke on after its device had confirmed that it is off."""

    node: Name
    sentence: str


# --- events ------------------------------------------------------------------------------------------------------------


class FenceSet(Event):
    node: NodeId
    device: Device


class FenceTestRequested(Event):
    node: NodeId
    number: int


class FenceTested(Event):
    """Written when something of it changed, and once a day. ok: it may prove. identity: of the machine; empty: it is not ok."""

    node: NodeId
    number: int
    ok: bool
    at_us: int
    power: Power = Power.UNKNOWN
    identity: str = ""
    sentence: str = ""
    remedy: str = ""


class FenceRequested(Event):
    """The power is to be cut (want off) or switched on. attempt: rises by one. apart_ms: the first and the last read of off are to
    lie so far apart, the longer where the node was heard lately. identity: the machine that it may be done to. epoch, boot_id: of
    its lease when it was asked for."""

    node: NodeId
    attempt: int
    want: Want
    at_us: int
    identity: str
    apart_ms: int
    epoch: int = 0
    boot_id: str = ""
    by: str = ""
    reason: str = ""


class FenceConfirmed(Event):
    """It is off. epoch, boot_id: of the lease that this ends. reads: what proves it, the last ones."""

    node: NodeId
    attempt: int
    epoch: int
    boot_id: str
    at_us: int
    ordered: Ordered
    identity: str
    reads: tuple[PowerRead, ...]
    sentence: str = ""


class FenceFailed(Event):
    """Version 2: `next_at_us` was `next_us`, which read as a length of time.

    A try came to nothing. last: there is none after it, else the next one is due at next_at_us."""

    VERSION = 2
    SINCE = 2
    node: NodeId
    attempt: int
    want: Want
    tries: int
    at_us: int
    sentence: str
    last: bool = False
    next_at_us: int = 0


class FencePoweredOn(Event):
    node: NodeId
    attempt: int
    at_us: int


class FenceDropped(Event):
    node: NodeId
    attempt: int
    sentence: str


class FenceDoubted(Event):
    """Its word does not hold: it proves nothing until it was tested again by somebody's wish."""

    node: NodeId
    at_us: int
    sentence: str


class FenceRemoved(Event):
    node: NodeId


FenceCommand = (
    SetFence
    | TestFence
    | RemoveFence
    | FenceNode
    | PowerOnNode
    | OrderFence
    | DropFence
    | NoteTest
    | NoteFence
    | DoubtFence
)
FenceEvent = (
    FenceSet | FenceTestRequested | FenceTested | FenceRequested | FenceConfirmed | FenceFailed | FencePoweredOn | FenceDropped
    | FenceDoubted | FenceRemoved
)  # fmt: skip
