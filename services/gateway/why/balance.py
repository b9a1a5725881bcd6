"""One sentence for an event of the rebalancer. Pure."""

from __future__ import annotations

from typing import Any

from proto import balance as b


def of_balance(event: Any) -> str:
    match event:
        case b.BalanceSet():
            return f"the rebalancer's mode was set to {event.mode}"
        case b.ImbalanceBegan():
            return f"the cluster is uneven: its score is {event.score:.3f}, the threshold {event.threshold:g}"
        case b.ImbalanceEnded():
            return f"the cluster is even enough again: its score is {event.score:.3f}"
        case b.MovePlanned():
            fell = f"{event.score_before:.3f} to {event.score_after:.3f}"
            turn = ", when its turn comes" if event.waits else ""
            return f"{event.vm} is to move from {event.source} to {event.target}{turn} (score {fell}): {event.reason}"
        case b.NoMoveFound():
            return f"nothing is moved: {event.sentence}"
        case b.MoveEnded(moved=True):
            return f"{event.vm} has moved"
        case b.MoveEnded():
            return f"{event.vm} did not move{': ' + event.sentence if event.sentence else ''}"
        case _:
            return ""
