"""An answer as people read it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Any

from libs.world.whatif.answer import Answer, Band, Node, Start
from libs.world.whatif.lived import Fate, Lived


def said(found: Answer) -> Iterator[str]:
    moment = datetime.fromtimestamp(found.at_us / 1e6).astimezone().isoformat(" ", "seconds")
    yield f"What if, from position {found.position} ({moment}): {found.variant or 'nothing is done'}"
    if found.fault:
        yield f"NO ANSWER: an invariant of the simulation did not hold: {found.fault}"
        return
    yield from _events(found)
    yield from _nodes(found.nodes)
    if found.meanwhile:
        yield f"(in flight at that moment, and settled before anything was done: {', '.join(found.meanwhile)})"
    yield ""
    trials = "one trial" if found.tries == 1 else f"{found.tries} trials, each with another chance"
    yield f"Simulated ({trials}):"
    yield from (f"  - {sentence}" for sentence in found.simulated)


def _events(found: Answer) -> Iterator[str]:
    yield from (f"  {lost.node} is declared lost after {span(lost.after)} ({lost.proof})" for lost in found.lost)
    yield from (f"  refused: {sentence}" for sentence in found.refused)
    for node, vms in found.leave.items():
        yield f"  would have to leave {node}: {', '.join(vms) or 'nobody'}"
    if found.starts:
        yield from rows(("VM", "FROM", "TO", "RUNS AFTER", "TRIALS"), [_start(one, found.tries) for one in found.starts])
    for moved in found.moves:
        yield f"  {moved.vm} moves from {moved.source} to {moved.node}" + _of(moved.trials, found.tries)
    for down in found.down:
        yield f"  {down.vm} does not run ({'was on ' + down.source if down.source else 'new'}): {down.sentence}" + _of(
            down.trials, found.tries
        )
    if found.rto is not None:
        yield f"  RTO: all that were lost run again after {span(found.rto)}"
    if not (found.starts or found.moves or found.down or found.lost or found.leave):
        yield "  nothing else happens"


def _start(one: Start, tries: int) -> tuple[str, ...]:
    others = ", ".join(f"{name} in {n}" for name, n in one.elsewhere.items())
    return one.vm, one.source or "new", one.node, span(one.after), f"{one.agree} of {tries}" + (f" ({others})" if others else "")


def _of(trials: int, tries: int) -> str:
    return "" if trials == tries else f" (in {trials} of {tries} trials)"


def span(band: Band) -> str:
    if band.least_s == band.most_s:
        return f"{band.median_s:.1f} s"
    return f"{band.median_s:.1f} s ({band.least_s:.1f} to {band.most_s:.1f})"


def _nodes(nodes: Iterable[Node]) -> Iterator[str]:
    """Promised of capacity: above 100 % is over-allocated, as far as the memory policy lets it."""
    yield from rows(
        ("NODE", "VMS", "MEMORY PROMISED", "OF CAPACITY", "VCPUS PER PCPU"),
        [
            (
                node.node + ("" if node.after["up"] else " (off)"),
                _change(node, lambda use: str(use["vms"])),
                _change(node, lambda use: f"{use['reserved_mib']} MiB"),
                _change(node, lambda use: percent(max(use["reserved_mib"], use["charged_mib"]), use["capacity_mib"])),
                _change(node, lambda use: f"{use['vcpus'] / max(1, use['pcpus']):.2f}"),
            )
            for node in nodes
        ],
    )


def _change(node: Node, of: Callable[[dict[str, Any]], str]) -> str:
    before, after = of(node.before), of(node.after)
    return before if before == after else f"{before} -> {after}"


def percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f} %" if whole else "-"


def rows(heads: tuple[str, ...], lines: Iterable[tuple[str, ...]]) -> Iterator[str]:
    table = [heads, *lines]
    widths = [max(len(row[n]) for row in table) for n in range(len(heads))]
    for row in table:
        yield "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def compared(one: Answer, other: Answer) -> Iterator[str]:
    """What differs between two variants of the same moment."""
    yield f"A: {one.variant or 'nothing is done'}"
    yield f"B: {other.variant or 'nothing is done'}"
    where = [{start.vm: start.node for start in found.starts} for found in (one, other)]
    down = [{found.vm for found in answer.down} for answer in (one, other)]
    names = sorted({*where[0], *where[1], *down[0], *down[1]})
    lines = [(vm, *(_fate(vm, where[n], down[n]) for n in (0, 1))) for vm in names]
    differ = [line for line in lines if line[1] != line[2]]
    if differ:
        yield from rows(("VM", "A", "B"), differ)
    rtos = tuple(span(found.rto) if found.rto else "-" for found in (one, other))
    sums = [_sums(found) for found in (one, other)]
    facts = [("RTO", *rtos), *((name, sums[0][name], sums[1][name]) for name in sums[0])]
    yield from rows(("", "A", "B"), facts)
    if not differ:
        yield "  every VM has the same fate in both"


def beside(found: Lived) -> Iterator[str]:
    """What was foretold, and what came of it."""
    yield f"What came of it, from {datetime.fromtimestamp(found.when_us / 1e6).astimezone().isoformat(' ', 'milliseconds')}:"
    for node, (band, real_s) in found.lost.items():
        real = f"it was after {real_s:.1f} s" if real_s is not None else "it was not"
        yield f"  {node} was foretold to be declared lost after {span(band)}, and {real}"
    heads = ("VM", "FORETOLD ON", "RAN ON", "FORETOLD AFTER", "RAN AFTER", "")
    yield from rows(heads, [_beside(fate) for fate in found.fates])
    yield f"  {found.placed} of {len(found.fates)} VMs as foretold, {found.within} of them within the time that was foretold"


def _beside(fate: Fate) -> tuple[str, ...]:
    foretold = span(fate.foretold) if fate.foretold else "-"
    real = "-" if fate.real_s is None else f"{fate.real_s:.1f} s"
    said = "" if fate.as_foretold else "elsewhere"
    if fate.foretold is not None and fate.real_s is not None and fate.off_s:
        said = said or f"{fate.off_s:.1f} s {'earlier' if fate.real_s < fate.foretold.least_s else 'later'}"
    return fate.vm, fate.node or "nowhere", fate.real_node or "nowhere", foretold, real, said


def _fate(vm: str, where: dict[str, str], down: set[str]) -> str:
    return "does not run" if vm in down else where.get(vm, "as before")


def _sums(found: Answer) -> dict[str, str]:
    up = [node.after for node in found.nodes if node.after["up"]]
    fullest = max((max(n["reserved_mib"], n["charged_mib"]) / max(1, n["capacity_mib"]) for n in up), default=0.0)
    return {
        "started": str(len(found.starts)), "moves": str(len(found.moves)), "do not run": str(len(found.down)),
        "fullest node": f"{100 * fullest:.0f} %",
    }  # fmt: skip
