"""The code of the services that are here, as a replay needs it."""

from __future__ import annotations

from libs.past.deciding import Code
from proto.services import SERVICES
from proto.upcasts import DOWNCASTS, UPCASTS
from services.host.known import service


def code(name: str) -> Code:
    """Of that service; of all of them together where none is named."""
    return Code(service(name) if name else tuple(map(service, SERVICES)), UPCASTS, DOWNCASTS)


def codes() -> list[Code]:
    return [code(name) for name in SERVICES]
