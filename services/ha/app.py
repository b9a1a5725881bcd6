"""ha as a service."""

from libs.common.host.service import Service
from services.ha import guard_react, guard_views, react, verdict_views, views
from services.ha.fencing.model import FENCE
from services.ha.guard import GUARD
from services.ha.lease import LEASE
from services.ha.main import HA
from services.ha.verdicts import VERDICT

SERVICE = Service(
    "ha",
    deciders=(LEASE, HA, GUARD, VERDICT, FENCE),
    follows=(*guard_views.FOLLOWS, *guard_react.FOLLOWS, *verdict_views.FOLLOWS),
    react=react.react,
    views=views.Views,
    enrich=react.enrich,
    ticks=guard_react.ticks,
)
