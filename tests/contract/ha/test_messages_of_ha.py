from __future__ import annotations

from tests.contract.messages.suite import Contract


class TestHa(Contract):
    service = "ha"
