"""`asvctl alerts`: what is to be looked at now."""

from __future__ import annotations

from services.cli import show
from services.cli.client import path
from services.cli.session import AsJson, client, wants_json


def alerts(_json: AsJson = False) -> None:
    """What is to be looked at now, the oldest first."""
    found = client().items(path("alerts"))
    if wants_json():
        show.as_json(found)
        return
    rows = [(show.when(a.get("since_us")), a.get("kind"), a.get("object"), a.get("sentence"), a.get("remedy")) for a in found]
    show.table(("SINCE", "KIND", "OBJECT", "WHAT", "REMEDY"), rows, "nothing is to be looked at")
