"""What becomes of a recovery drill's VM, and what its guest says. Pure; a part of drilling.py."""

from __future__ import annotations

from msgspec.structs import replace

from libs.common.messages import VmId
from proto.drills import AnswerDrill, DrillCleaned, DrillsEvent, DrillWent, NoteDrill, Reason, Step, Went
from proto.recovery import RecoveryEvent
from services.io.backups.drill_ends import Events, clean_wanted, failed, going, passed
from services.io.backups.drill_states import Drilling, Phase
from services.io.backups.states import Backups


def note(command: NoteDrill, state: Backups) -> Events:
    now = going(state)
    if now is None or command.target != now.target or not _new(command, now):
        return ()
    went = DrillWent(
        vm=VmId(command.vm), drill=now.id, target=VmId(now.target), went=command.went, after_ms=now.after_ms(command.at_us),
        node=command.node, generation=command.generation, sentence=command.sentence,
    )  # fmt: skip
    if now.phase is Phase.CLEANING:
        return [went, *_next(command, now)]
    wrong = _fails(command, now)
    if wrong is None:
        return [went]
    then = _after(command.went, now)
    return [*([went] if command.went is not Went.DENIED else []), *failed(command.vm, then, *wrong, command.at_us)]


def _new(command: NoteDrill, now: Drilling) -> bool:
    """Whether it says anything that the log does not."""
    match command.went:
        case Went.PREPARED:
            return not now.made and now.phase in (Phase.RECOVERING, Phase.CLEANING)
        case Went.DISKS:
            return now.phase is Phase.RECOVERING
        case Went.PLACED:
            return command.generation > now.generation
        case Went.RAN:
            fresh = now.phase is Phase.BOOTING or command.node != now.node
            return command.generation >= now.generation and (
                fresh or command.generation > now.generation or not now.runs
            )
        case Went.DENIED:
            return now.phase is Phase.BOOTING and not now.runs
        case Went.START_FAILED | Went.STOPPED:
            return now.runs and command.generation >= now.generation
        case Went.DELETED:
            return now.made
        case Went.AGENT:
            return False


def _fails(command: NoteDrill, now: Drilling) -> tuple[Reason, str] | None:
    match command.went:
        case Went.DENIED:
            return Reason.NO_ROOM, command.sentence
        case Went.STOPPED:
            return Reason.DIED, command.sentence or "it ended"
        case Went.DELETED:
            return Reason.REMOVED, f"{now.target} was deleted"
        case _:
            return None


def _after(went: Went, now: Drilling) -> Drilling:
    gone = went is Went.DELETED
    return replace(now, runs=now.runs and went is Went.DENIED, made=now.made and not gone)


def _next(command: NoteDrill, now: Drilling) -> Events:
    """What is to be done about it while it is cleaned up."""
    vm, at_us = command.vm, command.at_us
    match command.went:
        case Went.PREPARED | Went.STOPPED | Went.START_FAILED:
            return [clean_wanted(vm, now, Step.DELETE, at_us)]
        case Went.PLACED | Went.RAN:
            return [clean_wanted(vm, now, Step.STOP, at_us)]
        case Went.DELETED if not now.held:
            return [DrillCleaned(vm=VmId(vm), drill=now.id, target=now.target)]
        case _:
            return ()


def answer(command: AnswerDrill, state: Backups) -> Events:
    now = going(state)
    if (
        now is None
        or command.drill != now.id
        or now.phase is not Phase.CHECKING
        or command.generation != now.generation
    ):
        return ()
    vm, at_us = command.vm, command.known.at_us
    said: list[DrillsEvent | RecoveryEvent] = []
    if now.agent_ms is None and not command.error:
        went = DrillWent(
            vm=VmId(vm), drill=now.id, target=VmId(now.target), went=Went.AGENT, after_ms=now.after_ms(at_us), node=now.node,
            generation=now.generation,
        )  # fmt: skip
        said.append(went)
    if command.error:
        return [*said, *failed(vm, now, Reason.CHECK, f"its check did not run: {command.error}", at_us)]
    if command.exit_code is None:
        return said if now.wish.check else [*said, *passed(vm, now, at_us)]
    if command.exit_code == 0:
        return [*said, *passed(vm, now, at_us, 0, command.output)]
    sentence = f"its check exited with {command.exit_code}"
    return [*said, *failed(vm, now, Reason.CHECK, sentence, at_us, command.exit_code, command.output)]
