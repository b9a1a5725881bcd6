"""The agent's part in its node's lease: asks the grantor once a second (path A) and tells the watchdog the answer with the time
when it asked; tells the cluster what the watchdog sees; says that the node is clean when its lease has ended and nothing is left.

It holds nothing itself: an agent that starts anew goes on with what its watchdog says, and extends nothing that it did not ask for.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec

from libs.common.bus import Bus, BusError
from libs.common.host.tasks import Tasks
from libs.common.messages import Fact, NodeId, Reply, encode
from libs.lease.effects import State
from libs.lease.times import FAST
from proto.compute import Capabilities, GoneCause
from proto.lease import MUTE, UNKNOWN, AskGrant, Granted, LeaseBeat, Refuse, ReportReturned, Sighting
from services.node.drivers import CannotStart, Machine, MachineChanged
from services.node.effects import Act
from services.node.watchdog_care import WatchdogCare
from services.node.watchdog_line import NoWatchdog, WatchdogLine

log = logging.getLogger(__name__)

BEAT_S = FAST.beat_us / 1e6
GRANT_S_MAX = 2.5
"""an answer that took longer hardly renews anything; the next was asked for meanwhile"""
ASKED_MAX = 16
"""unanswered at a time: as many as a paused node asks in a hurry (docs/ha.md) until the first of them is given up. Were it fewer,
those that were asked of a grantor that could not hear would keep a node from asking once it can."""
RETURN_S = 0.5
DOOMED_S = 60.0
STARTS = ("start", "receive")
RUNS = ("activate", "resume", "recall", "reset")
"""verbs after which a guest may run"""
STATE_S_MAX = 2.0

_granted = msgspec.msgpack.Decoder(Granted).decode

type Learn = Callable[[dict[str, int]], Awaitable[tuple[str, ...] | None]]
"""VMs with their generations → those that the log gave to another; None: it did not say"""
type Tell = Callable[[Fact], Awaitable[Reply | None]]


def now_us() -> int:
    """The clock of leases: it runs on while this host sleeps."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000


class Leasing:
    """tell: a fact to ha. changed: called when something that this node can do is another (pools, where peers reach it)."""

    def __init__(
        self, node: NodeId, boot_id: str, state: Path, bus: Bus, learn: Learn, tell: Tell, changed: Callable[[], object]
    ) -> None:  # fmt: skip
        self.line = WatchdogLine(state, self._heard)
        self.state: dict[str, Any] = {}
        self._node = node
        self._boot_id = boot_id
        self._bus = bus
        self._learn = learn
        self._tell = tell
        self._changed = changed
        self._care = WatchdogCare(state, self.line, self._mute)
        self._tasks = Tasks()
        self._known = asyncio.Event()
        self._now = asyncio.Event()
        self._asked = 0
        self._returned = self._returning = 0
        """the epoch that ended, and was heard to have; the one that is being told"""
        self._doomed: dict[str, float] = {}
        """VMs that the watchdog has been killing, and when it said so"""

    async def start(self) -> None:
        """Returns once the watchdog has said how it is, or is late with it."""
        self.line.start()
        self._tasks.start(self._ask_all())
        self._tasks.start(self._care.run())
        try:
            await asyncio.wait_for(self._known.wait(), STATE_S_MAX)
        except TimeoutError:
            log.warning("%s: the watchdog has not answered yet", self._node)

    async def stop(self) -> None:
        await self._tasks.stop()
        await self.line.stop()

    # --- what it means for VMs ----------------------------------------------------------------------------------------

    async def begin(self, vm: str, *, start: bool) -> str:
        """Why it may not run now; "": it may, and `over` follows. start: of a protected VM; else it is one that is there, of which
        the watchdog knows whether it is."""
        try:
            return str((await self.line.ask("begin", vm=vm, start=start))["why_not"])
        except NoWatchdog as error:
            return f"{vm} may start elsewhere when this node is lost, and {error}"

    def over(self, vm: str) -> None:
        self.line.say("over", vm=vm)

    def able(self, found: Capabilities) -> Capabilities:
        """With what the watchdog adds to what the driver can: a pool has to lock, and to prove silence. A node of a cluster in
        which nobody grants leases guards nothing."""
        pools = tuple(pool for pool in found.lease_pools if pool in self.pools)
        return msgspec.structs.replace(found, watchdog=self.guards, watch_at=self.watch_at, lease_pools=pools)

    def explained(self, change: MachineChanged) -> MachineChanged:
        """The end of a process, with what the watchdog had to do with it."""
        at_s = self._doomed.pop(change.vm, 0.0) if change.status == "gone" else 0.0
        if time.monotonic() - at_s > DOOMED_S:
            return change
        said = "this node's watchdog ended it: the node's lease was not renewed in time, or it was asked for by letter"
        return msgspec.structs.replace(change, cause=GoneCause.LEASE_ENDED, sentence=f"{said}; {change.sentence}")

    @property
    def pools(self) -> dict[str, str]:
        """Word by name, of those where a lease can be renewed and its silence be proven."""
        return dict(self.state.get("pools", {}))

    @property
    def guards(self) -> bool:
        """It has a lease, or had one."""
        return bool(self.state.get("epoch"))

    @property
    def epoch(self) -> int:
        """Of the lease that it has; 0: none."""
        return int(self.state["epoch"]) if self.state and self.state["own"] in (State.HELD, State.PAUSED) else 0

    @property
    def watch_at(self) -> str:
        return str(self.state.get("watch_at", ""))

    # --- the watchdog says --------------------------------------------------------------------------------------------

    def _heard(self, word: dict[str, Any]) -> None:
        match word["word"]:
            case "state":
                before = self.pools, self.watch_at, self.guards
                self.state = word
                self._doomed |= dict.fromkeys(word["doomed"], time.monotonic())
                self._known.set()
                self._tasks.start(self._beat(word))
                if before != (self.pools, self.watch_at, self.guards):
                    self._changed()
                if word["clean"] and word["epoch"] and word["epoch"] not in (self._returned, self._returning):
                    self._returning = int(word["epoch"])
                    self._tasks.start(self._return(self._returning))
            case "ask":
                self._now.set()
            case "learn":
                self._tasks.start(self._learnt(int(word["number"]), {vm: int(g) for vm, g in word["vms"].items()}))

    async def _mute(self) -> None:
        await self._publish(LeaseBeat(self._node, self._boot_id, now_us(), MUTE, 0))

    async def _beat(self, word: dict[str, Any]) -> None:
        own = State.PAUSED if word["own"] == State.WOKEN else State(word["own"])
        beat = LeaseBeat(
            self._node, self._boot_id, now_us(), str(own), int(word["epoch"]), int(word["left_us"]),
            tuple(map(sighting_of, word["sightings"])), bool(word["slow"]),
        )  # fmt: skip
        await self._publish(beat)

    async def _publish(self, beat: LeaseBeat) -> None:
        try:
            await self._bus.publish(f"tel.{self._node}.leases", encode(beat))
        except BusError as error:
            log.debug("what the watchdog saw was not told: %s", error)

    async def _learnt(self, number: int, vms: dict[str, int]) -> None:
        raised = await self._learn(vms)
        if raised is not None:
            self.line.say("learnt", number=number, raised=raised)

    async def _return(self, epoch: int) -> None:
        """Until it is accepted: only then is there a lease of the next epoch. A node that was started anew is refused as long as
        the lease of its boot before is waited out."""
        log.warning("%s: its lease of epoch %s has ended, and nothing of it is left", self._node, epoch)
        while self._returning == epoch:
            reply = await self._tell(ReportReturned(node=self._node, boot_id=self._boot_id, epoch=epoch))
            if reply is not None and reply.status == "accepted":
                self._returned, self._returning = epoch, 0
                return
            await asyncio.sleep(RETURN_S)

    # --- path A -------------------------------------------------------------------------------------------------------

    async def _ask_all(self) -> None:
        while True:
            self._now.clear()
            if self.state and self.line.there and self._asked < ASKED_MAX:
                self._asked += 1
                self._tasks.start(self._ask())
            try:
                await asyncio.wait_for(self._now.wait(), BEAT_S)
            except TimeoutError:
                continue

    async def _ask(self) -> None:
        state = self.state
        ended = state["own"] == State.ENDED and state["epoch"] == self._returned
        ask = AskGrant(
            self._node, self._boot_id, 0 if ended else int(state["epoch"]), now_us(), int(state["term"]), int(state["guarded"]),
            tuple(sorted(self.pools.values())), tuple(state["renews"]), bool(state["tolerant"]), left_us=left_us(state, now_us()),
        )  # fmt: skip
        try:
            granted = _granted(await self._bus.request(f"lease.{self._node}", encode(ask), timeout_s=GRANT_S_MAX))
        except BusError as error:
            log.debug("no grantor has answered: %s", error)
            return
        except msgspec.MsgspecError as bad:
            log.error("the grantor answered what is no grant: %s", bad)
            return
        finally:
            self._asked -= 1
        if ended and forgotten(granted, self._returned):
            self._returned = 0
        self.line.say("grant", **{name: getattr(granted, name) for name in granted.__struct_fields__})


def left_us(state: dict[str, Any], now_us: int) -> int | None:
    """AskGrant.left_us, by the watchdog's last word. It only ever lasts longer than that says."""
    if state["own"] not in (State.HELD, State.PAUSED):
        return 0
    if "at_us" not in state:
        return None
    left = int(state["at_us"]) + int(state["left_us"]) - now_us
    return left if left > 0 else UNKNOWN


def forgotten(granted: Granted, returned: int) -> bool:
    """The log does not know that the node has come back from that epoch: it was restored to before that, and is told again."""
    return granted.refused in ("", Refuse.LOST) and 0 < granted.epoch <= returned


def sighting_of(found: dict[str, Any]) -> Sighting:
    """As the watchdog read it. Raises TypeError."""
    return Sighting(**{**found, "done": tuple(found.get("done", ()))})


async def leased(
    leasing: Leasing | None, act: Act, carry_out: Callable[[], Awaitable[Machine | None]]
) -> Machine | None:
    """A verb that lets a guarded guest run is carried out under a held lease only. Raises DriverError."""
    start = act.guards or (act.verb in STARTS and act.spec is not None and act.spec.protected)
    if leasing is None or not (start or act.verb in RUNS):
        return await carry_out()
    if why_not := await leasing.begin(act.vm, start=start):
        raise CannotStart(why_not)
    try:
        return await carry_out()
    finally:
        leasing.over(act.vm)
