"""High availability as a whole (stream `ha-main`): its settings, whether it is armed, who grants. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from msgspec.structs import asdict, replace

from libs.common.decider import Decider, Refused
from libs.common.messages import floor_of
from libs.lease.times import times
from proto.lease import (
    MAIN,
    ArmHa,
    BeginTerm,
    DisarmHa,
    HaArmed,
    HaCommand,
    HaDisarmed,
    HaEvent,
    HaHeld,
    HaReleased,
    HaSet,
    HaSettings,
    HoldHa,
    RearmHa,
    Refusal,
    Reserve,
    SetHa,
    TermBegan,
)
from services.ha.states import Ha


def decide(command: HaCommand, ha: Ha) -> Sequence[HaEvent]:
    match command:
        case SetHa():
            return _set(command, ha.settings)
        case DisarmHa():
            if not command.reason.strip():
                raise Refused(
                    Refusal.BAD_SETTINGS, "no reason is given", "say why, for those who wonder why nothing is restarted"
                )
            same = not ha.armed and (ha.reason, ha.until_us) == (command.reason, command.until_us)
            return () if same else [HaDisarmed(reason=command.reason, until_us=command.until_us)]
        case ArmHa():
            return () if ha.armed and not ha.held else [HaArmed(at_us=command.at_us)]
        case RearmHa():
            over = not ha.armed and 0 < ha.until_us <= command.now_us
            return [HaArmed(over=True)] if over else ()
        case BeginTerm():
            begun = TermBegan(
                term=next_term(ha, command.incarnation), holder=command.holder, at_us=command.now_us,
                wait_us=times(ha.settings.tolerant).successor_us,
            )  # fmt: skip
            return () if ha.holder == command.holder else [begun]
        case HoldHa():
            if (command.sentence, command.remedy) == (ha.held, ha.remedy):
                return ()
            return [HaHeld(sentence=command.sentence, remedy=command.remedy) if command.sentence else HaReleased()]


def next_term(ha: Ha, incarnation: int) -> int:
    """Above all that the log knows and all that a lost timeline may have given: nodes refuse a lower one than they have seen."""
    return max(ha.term, floor_of(incarnation)) + 1


def _set(command: SetHa, now: HaSettings) -> Sequence[HaEvent]:
    named = {name: value for name in HaSettings.__struct_fields__ if (value := getattr(command, name)) is not None}
    wanted = HaSettings(**asdict(now) | named)
    if wanted.reserve == Reserve.NODES and wanted.reserve_nodes and 0 < command.nodes <= wanted.reserve_nodes:
        said = f"room for the VMs of {wanted.reserve_nodes} nodes is to be kept, and there are {command.nodes}"
        raise Refused(Refusal.BAD_SETTINGS, said, f"keep it for at most {command.nodes - 1}, or a percentage")
    return () if wanted == now else [HaSet(settings=wanted)]


def evolve(ha: Ha, event: HaEvent) -> Ha:
    match event:
        case HaSet():
            return replace(ha, settings=event.settings)
        case HaDisarmed():
            return replace(ha, armed=False, reason=event.reason, until_us=event.until_us)
        case HaArmed():
            return replace(ha, armed=True, reason="", until_us=0, word_us=max(ha.word_us, event.at_us))
        case TermBegan():
            return replace(ha, term=event.term, holder=event.holder, term_us=event.at_us)
        case HaHeld():
            return replace(ha, held=event.sentence, remedy=event.remedy)
        case HaReleased():
            return replace(ha, held="", remedy="")


HA: Decider[HaCommand, Ha, HaEvent] = Decider(
    kind="ha",
    commands=get_args(HaCommand),
    events=get_args(HaEvent),
    state=Ha,
    key=lambda command: MAIN,
    initial=Ha(),
    decide=decide,
    evolve=evolve,
)
