"""The code of the services that are here, as a replay needs it."""

from __future__ import annotations

from libs.past.deciding import Code
from proto.services import SERVICES
from proto.upcasts import DOWNCASTS, UPCASTS
from services.host.known import service


def code(name: str) -> Code:
    return Code(service(name), UPCASTS, DOWNCASTS)


def codes() -> list[Code]:
    return [code(name) for name in SERVICES]
