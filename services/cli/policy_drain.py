"""`asvctl memory policy NODE … --drain`: which VMs would have to go before a policy can hold, and where to."""

from __future__ import annotations

from typing import Any

from services.cli import show
from services.cli.session import wants_json


def shown(node: str, plan: dict[str, Any]) -> None:
    if wants_json():
        show.as_json(plan)
        return
    moves, unfit = plan.get("moves") or (), plan.get("unfit") or ()
    rows = [(m["vm"], m["to"], "") for m in moves]
    rows += [(u["vm"], "nowhere", f"{u['sentence']}; {u.get('remedy', '')}") for u in unfit]
    show.table(("VM", "TO", "WHY"), rows, f"nothing is in its way: {node} can have that policy at once")
    if not plan["enough"]:
        print("That would not be enough: critical VMs never go, and they alone do not fit.")
    elif unfit:
        print("As long as one fits nowhere, --apply is refused.")
    elif moves:
        print("Nothing was changed; --drain --apply moves them, and the policy holds once they have gone.")
