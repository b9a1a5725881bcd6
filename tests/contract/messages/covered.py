"""Is every message in its service's contract? Part of `make check`, so that a new message without a contract test fails it.

    python -m tests.contract.messages.covered

The rule: each command, fact and tick has a setting in which it is accepted and something comes of it, and (ticks and facts apart)
one in which it is refused, unless it never is (NEVER_REFUSED); each event comes of some setting; each followed event is in the
table of those; each version before today's of an own event lies before some message, so that it is folded. Of the agent: each
order, question, answer, kind of telemetry and fact is in its tables (tests/contract/node).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import msgspec

from libs.common.messages import Fact, Message, Recorded, Tick, encode, tag_of
from libs.common.registry import UnknownType
from proto.families import FAMILIES, REGISTRY, Family
from proto.services import SERVICES
from services.host.known import service as service_of
from tests.contract.messages.settings import HERE, Setting, followed, settings
from tests.contract.node.said import ASKS, ORDERS, TELEMETRY, UNSAID

NEVER_REFUSED = frozenset(
    {
        "end_backup_read",
        *("grant_devices", "revoke_devices", "return_devices", "remove_devices", "settle_disks", "note_hardware"),
        *("forget_node", "arm_ha", "owe_vm", "note_restart", "note_hand", "release_vm"),
        *("note_host", "keep_reserve", "reserve_memory", "resize_memory", "release_memory", "unmap_regions"),
        *("end_vm", "note_memory", "note_devices", "abandon_start", "note_allotment", "note_resize", "lose_vm", "protect_vm"),
        *("end_backup", "end_recovery"),
        *("prepare_recovery", "recover_disks"),
        *("note_drill", "answer_drill", "answer_recovery"),
        *("restart_vm", "greet_node", "end_drain", "make_plan", "set_balance", "note_move_ended"),
    }
)
"""commands of which no refusal is known: mostly what services say to themselves upon events, which every state takes"""


def check() -> list[str]:
    """One sentence per thing that is missing."""
    wrong: list[str] = []
    for name in SERVICES:
        try:
            wrong += _wishes(FAMILIES[name], settings(name))
            wrong += _followed(name)
        except (OSError, msgspec.MsgspecError) as error:
            wrong.append(f"tests/contract/{name}: its tables cannot be read: {error}")
        if not list((HERE / name).glob("test_*.py")):
            wrong.append(f"tests/contract/{name}: no test plays its tables; see tests/contract/io")
    return [*wrong, *_agent(FAMILIES["node"])]


def _agent(family: Family) -> Iterator[str]:
    where = "tests/contract/node/said.py"
    ordered, asked = {one.kind for one in ORDERS}, {one.kind: one.answer for one in ASKS}
    yield from (f"{tag_of(kind)}: no order of {where}" for kind in family.orders if kind not in ordered)
    yield from (f"{tag_of(kind)}: no question of {where}" for kind in family.asks if kind not in asked)
    yield from (
        f"{tag_of(kind)}: {where} has {answer.__name__} for its answer, and it is {family.answers[kind].__name__}"
        for kind, answer in asked.items()
        if family.answers.get(kind, answer) is not answer
    )
    heard = set(TELEMETRY.values())
    yield from (f"{kind.__name__}: no telemetry of {where}" for kind in family.telemetry if kind not in heard)
    told = {one.fact for one in ORDERS} | set(UNSAID)
    facts = [tag_of(kind) for other in FAMILIES.values() for kind in other.facts]
    yield from (f"{tag}: comes of no order of {where}; of what it comes: UNSAID" for tag in facts if tag not in told)


def _wishes(family: Family, table: tuple[Setting, ...]) -> Iterator[str]:
    where = f"tests/contract/{family.service}/wishes.json"
    names = [setting.name for setting in table]
    yield from (f"{where}: {name} is there twice" for name in sorted({n for n in names if names.count(n) > 1}))
    came = {setting.wish for setting in table if setting.then}
    refused = {setting.wish for setting in table if setting.refused}
    for kind in (*family.commands, *family.facts):
        tag = tag_of(kind)
        if tag not in came:
            yield f"{tag}: no setting in {where} in which it is accepted and something comes of it"
        if not issubclass(kind, Fact | Tick) and tag not in refused | NEVER_REFUSED:
            yield f"{tag}: no setting in {where} in which it is refused; where it never is: NEVER_REFUSED"
        if tag in refused & NEVER_REFUSED:
            yield f"{tag}: is refused in {where}: take it from NEVER_REFUSED"
    events = {type for setting in table for type in setting.then}
    lacking = [tag for tag in map(tag_of, family.events) if tag not in events]
    yield from (f"{tag}: no setting in {where} of which it comes" for tag in lacking)
    yield from _versions(family, table)
    for setting in table:
        yield from (f"{where}: {setting.name}: {why}" for why in _unreadable(setting))


def _versions(family: Family, table: tuple[Setting, ...]) -> Iterator[str]:
    given = {(event.type, event.v) for setting in table for event in setting.given}
    for event in family.events:
        for v in range(1, event.VERSION):
            if (tag_of(event), v) not in given:
                yield f"{tag_of(event)}.v{v}: lies before no message of tests/contract/{family.service}: nothing folds it"


def _unreadable(setting: Setting) -> Iterator[str]:
    try:
        setting.message()
        for event in setting.given:
            data = encode({"type": event.type} | event.body)
            REGISTRY.event(Recorded(1, event.stream, 1, event.type, event.v, 0, data, b""))
    except (msgspec.ValidationError, UnknownType, KeyError) as error:
        yield str(error)


def _followed(name: str) -> Iterator[str]:
    where, table = f"tests/contract/{name}/followed.json", followed(name)
    follows: dict[str, type[Message]] = {tag_of(kind): kind for kind in service_of(name).follows}
    yield from (f"{tag}: {name} follows it, and {where} does not say what it leads to" for tag in follows if tag not in table)
    yield from (f"{where}: {tag}: {name} does not follow it" for tag in table if tag not in follows)


def main() -> int:
    wrong = check()
    tables = [settings(name) for name in SERVICES] if not wrong else []
    said = f"all messages of {len(SERVICES)} services and the agent are in their contracts: {sum(map(len, tables))} settings"
    print("\n".join(wrong) or said)
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
