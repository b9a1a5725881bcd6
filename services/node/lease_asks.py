"""What is asked of a node's watchdog: fresh reads of others' records, letters into mailboxes, probes of peers (proto.lease)."""

from __future__ import annotations

import msgspec

from libs.common.bus import Bus, Incoming
from libs.common.messages import NodeId, encode
from proto.lease import AskLetter, AskProbe, AskRecords, Probes, Records
from services.node.leasing import sighting_of
from services.node.watchdog_line import NoWatchdog, WatchdogLine

_ask = msgspec.msgpack.Decoder(AskRecords | AskLetter | AskProbe).decode


class LeaseAsks:
    """Serves `ask.<node>.lease`."""

    def __init__(self, node: NodeId, line: WatchdogLine, bus: Bus) -> None:
        self._node = node
        self._line = line
        self._bus = bus

    async def start(self) -> None:
        await self._bus.serve(f"ask.{self._node}.lease", self._serve)

    async def _serve(self, message: Incoming) -> None:
        try:
            answer = await self._answer(_ask(message.data))
        except msgspec.MsgspecError as bad:
            answer = Records(error=f"not a question: {bad}")
        await message.respond(encode(answer))

    async def _answer(self, ask: AskRecords | AskLetter | AskProbe) -> Records | Probes:
        try:
            match ask:
                case AskRecords():
                    found = await self._line.ask("records", nodes=ask.nodes, pools=ask.pools)
                    return Records(sightings=tuple(map(sighting_of, found["sightings"])), error=found["error"])
                case AskLetter():
                    found = await self._line.ask(
                        "letter", node=ask.node, pools=ask.pools, number=ask.number, term=ask.term, epoch=ask.epoch, vms=ask.vms
                    )
                    return Records(error=found["error"])
                case AskProbe():
                    found = await self._line.ask("probe", addresses=ask.addresses)
                    return Probes(answered_ms=found["answered_ms"], error=found["error"])
        except NoWatchdog as error:
            return Probes(error=str(error)) if isinstance(ask, AskProbe) else Records(error=str(error))
