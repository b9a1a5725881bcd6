"""/v1/alerts: what an operator is to look at now."""

from __future__ import annotations

from litestar import get
from litestar.di import NamedDependency

from services.gateway.alerts import alerts
from services.gateway.auth import Action
from services.gateway.gateway import Gateway
from services.gateway.http.bodies import Alerts
from services.gateway.http.door import Asked
from services.gateway.http.pools import found
from services.gateway.http.recoveries import shown
from services.gateway.views.recoveries import ENDED


@get("/v1/alerts", action=Action.READ, summary="What is to be looked at now", tags=["Cluster"])
async def list_alerts(request: Asked, gateway: NamedDependency[Gateway]) -> Alerts:
    """Those about objects of the token's projects, the oldest first."""
    every = gateway.model.recoveries.all.values()
    recoveries = [(await shown(gateway, one)).recovery for one in every if one.state not in ENDED]
    return Alerts(alerts(gateway.model, found(request, gateway), request.user.sees, recoveries, gateway.clock.now_us()))
