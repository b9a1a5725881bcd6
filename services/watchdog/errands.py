"""What the agent asks for: fresh reads of others' records, letters, probes. Each is answered once, by the loop, when all that was
asked have answered, or ANSWER_US have passed: who did not is then said to have failed, which proves nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from libs.lease.effects import Letter
from services.watchdog.peers import Probing
from services.watchdog.pool import Pool, Sighted

ANSWER_US = 2_000_000
ERRANDS_MAX = 256
NODES_MAX = 64

type Say = Callable[..., None]


class Errand:
    """id: the agent's. left: pools (by name) that have not answered."""

    def __init__(self, id: int, word: str, until_us: int, left: dict[str, Pool]) -> None:
        self.id = id
        self.word = word
        self.until_us = until_us
        self.left = left
        self.sightings: list[dict[str, Any]] = []
        self.error = ""


class Errands:
    """pools: by word. say: to the agent."""

    def __init__(self, pools: Callable[[], Mapping[str, Pool]], probing: Probing, say: Say) -> None:
        self._pools = pools
        self._probing = probing
        self._say = say
        self._open: dict[int, Errand] = {}
        self._last = 0

    def records(self, said: Mapping[str, Any], now_us: int) -> None:
        nodes = tuple(map(str, said["nodes"]))
        if len(nodes) > NODES_MAX:
            self._say("records", id=said["id"], sightings=[], error=f"{len(nodes)} nodes are more than {NODES_MAX}")
            return
        number, errand = self._begin(said, now_us)
        for pool in tuple(errand.left.values()):
            pool.errand(number, nodes)
        self._settle(number, errand)

    def letter(self, said: Mapping[str, Any], now_us: int) -> None:
        number, errand = self._begin(said, now_us)
        letter = Letter(
            str(said["node"]), int(said["number"]), int(said["term"]), int(said["epoch"]), tuple(map(str, said["vms"]))
        )
        for pool in tuple(errand.left.values()):
            try:
                pool.send(number, letter)
            except ValueError as bad:
                errand.error = str(bad)
                errand.left.clear()
        self._settle(number, errand)

    def probe(self, said: Mapping[str, Any], now_us: int) -> None:
        number, _ = self._begin({**said, "pools": ()}, now_us)
        addresses = {str(node): str(at) for node, at in said["addresses"].items()}
        if why := self._probing.start(number, addresses):
            self.probed(number, {}, why)

    def answered(self, pool: str, sighted: Sighted, word: str) -> None:
        """A pool has done its part of an errand."""
        errand = self._open.get(sighted.errand)
        if errand is None or errand.left.pop(pool, None) is None:
            return
        errand.sightings += [{**sighting, "pool": word} for sighting in sighted.sightings]
        if sighted.error:
            errand.error = f"pool {pool}: {sighted.error}"
        self._settle(sighted.errand, errand)

    def probed(self, number: int, answered_ms: Mapping[str, float], error: str = "") -> None:
        if (errand := self._open.pop(number, None)) is not None:
            self._say("probe", id=errand.id, answered_ms=dict(answered_ms), error=error)

    def tick(self, now_us: int) -> None:
        for number, errand in tuple(self._open.items()):
            if now_us >= errand.until_us:
                late = ", ".join(sorted(errand.left)) or "peers"
                errand.error = f"no answer within {ANSWER_US // 1_000_000} s from {late}"
                errand.left.clear()
                self._settle(number, errand)

    def forget(self) -> None:
        """Whoever asked is gone."""
        self._open.clear()

    # --- inside --------------------------------------------------------------------------------------------------------

    def _begin(self, said: Mapping[str, Any], now_us: int) -> tuple[int, Errand]:
        self._last += 1
        known, wanted = self._pools(), tuple(map(str, said["pools"]))
        errand = Errand(
            int(said["id"]),
            str(said["word"]),
            now_us + ANSWER_US,
            {known[w].name: known[w] for w in wanted if w in known},
        )
        if unknown := [word for word in wanted if word not in known]:
            errand.error = f"this node reaches no pool with the word {unknown[0]}"
        if len(self._open) < ERRANDS_MAX:
            self._open[self._last] = errand
        return self._last, errand

    def _settle(self, number: int, errand: Errand) -> None:
        if not errand.left and self._open.pop(number, None) is not None:
            self._say(errand.word, id=errand.id, sightings=errand.sightings, error=errand.error)
