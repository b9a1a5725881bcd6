"""The services, each by its one declaration. Only the host knows them all."""

from __future__ import annotations

import importlib

from libs.common.host.service import Service


def service(name: str) -> Service:
    """The SERVICE of services.<name>.app; imported only when it is wanted here."""
    found: Service = importlib.import_module(f"services.{name}.app").SERVICE
    return found
