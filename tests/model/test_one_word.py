"""What is said in several places on purpose is the same in all of them: the API's words and asvctl's are their own, as clients of
another release hold to them, and asvctl starts without the wire's libraries."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec
import pytest

from libs.common.host.service import no_orders
from libs.common.messages import Command, Value
from proto.balance import Mode as BalanceMode
from proto.families import FAMILIES
from proto.guard import Guard, SetGuard, Then
from proto.guard import Mode as GuardMode
from proto.ha_main import HaSettings, Isolated, Reserve, SetHa, Unlinked
from proto.networks import SetNetwork
from proto.plan import SetAllotment
from proto.services import CONTROL, ORDERING, SERVICES
from services.cli import balance, ha, vm_guard
from services.gateway.http.bodies import AllotmentBody, Body
from services.gateway.http.guards import GuardBody
from services.gateway.http.ha_bodies import HaBody, HaRules
from services.gateway.http.networks import NetworkBody
from services.gateway.views.guards import Rules
from services.host.known import service

CHOICES = [
    (ha.Isolated, Isolated), (ha.Unlinked, Unlinked), (ha.Reserve, Reserve), (vm_guard.Mode, GuardMode), (vm_guard.Then, Then),
    (balance.Mode, BalanceMode),
]  # fmt: skip
WISHES: list[tuple[type[Body], type[Command], set[str]]] = [
    (HaBody, SetHa, {"nodes"}),
    (GuardBody, SetGuard, {"vm", "defined", "why_not", "unknown", "circle"}),
    (NetworkBody, SetNetwork, {"network", "others"}),
    (AllotmentBody, SetAllotment, {"vm", "cpus", "others_reserved_pct", "limit", "limit_before"}),
]
"""what a client sends, the command that it becomes, and what of that a client does not say"""
LOOSER = {"together", "apart", "after"}
"""bounds that the API alone holds to"""
SHOWN: list[tuple[type[msgspec.Struct], type[Value]]] = [(HaRules, HaSettings), (Rules, Guard)]


def words(kind: type[msgspec.Struct]) -> set[str]:
    return {field.name for field in msgspec.structs.fields(kind)}


def bounds(kind: type[msgspec.Struct], name: str) -> Any:
    """As they are in a schema: of numbers and lengths, and the choices. (Lists and tuples are both arrays there.)"""
    _, known = msgspec.json.schema_components([kind], ref_template="{name}")
    return known[kind.__name__]["properties"][name]


@pytest.mark.parametrize(("offered", "taken"), CHOICES, ids=str)
def test_asvctl_offers_what_is_taken(offered: type[StrEnum], taken: type[StrEnum]) -> None:
    assert [(one.name, one.value) for one in offered] == [(one.name, one.value) for one in taken]


@pytest.mark.parametrize(("body", "command", "filled"), WISHES, ids=lambda one: getattr(one, "__name__", ""))
def test_a_client_may_say_what_the_command_holds(body: type[Body], command: type[Command], filled: set[str]) -> None:
    assert words(command) - words(body) == filled
    for name in words(body) - LOOSER:
        assert bounds(body, name) == bounds(command, name), name


@pytest.mark.parametrize(("shown", "known"), SHOWN, ids=lambda one: one.__name__)
def test_all_that_is_set_is_shown(shown: type[msgspec.Struct], known: type[Value]) -> None:
    assert words(shown) == words(known)


def test_who_the_services_are() -> None:
    assert tuple(name for name, family in FAMILIES.items() if family.streams) == SERVICES
    assert tuple(name for name in SERVICES if service(name).orders is not no_orders) == ORDERING
    assert [service(name).name for name in SERVICES] == list(SERVICES) and set(SERVICES) < set(CONTROL)
