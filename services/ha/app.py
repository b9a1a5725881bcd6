"""ha as a service. What runs beside it in its process (the grantor) is in beside.py."""

from collections.abc import Mapping
from typing import Any

from libs.common.host.service import Service
from services.ha import guard_react, guard_views, node_views, react, reserve_views, verdict_views
from services.ha.fencing import views as fence_views
from services.ha.fencing.model import FENCE
from services.ha.guard import GUARD
from services.ha.lease import LEASE
from services.ha.main import HA
from services.ha.picture import shown
from services.ha.reserve import RESERVE
from services.ha.verdicts import VERDICT
from services.ha.views import Views


def query(what: str, data: bytes, states: Mapping[str, Any], views: Views) -> Any:
    """Raises KeyError for unknown words."""
    if what == "standing":
        return shown(states, views)
    raise KeyError(what)


PARTS = (node_views, fence_views, guard_views, guard_react, reserve_views, verdict_views)

SERVICE = Service(
    "ha",
    deciders=(HA, LEASE, FENCE, GUARD, RESERVE, VERDICT),
    follows=tuple(dict.fromkeys(event for part in PARTS for event in part.FOLLOWS)),
    react=react.react,
    views=Views,
    enrich=react.enrich,
    look=react.look,
    telemetry=("tel.*.leases", "tel.*.vitals", *fence_views.TELEMETRY),
    hear=react.hear,
    query=query,
)
