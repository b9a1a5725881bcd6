"""What may be appended at all, and the laws inside one group that need no look at the log. Used by both twins."""

from __future__ import annotations

from libs.common.log import Group, Unit

STREAM_BYTES_MAX = 200
TYPE_BYTES_MAX = 200
GROUP_BYTES_MAX = 64 * 1024 * 1024
INT4_MAX = 2**31 - 1
INT2_MAX = 2**15 - 1


def check_group(group: Group) -> int:
    """The group's size in bytes. Raises ValueError where no log could ever take it: such a group harms nobody else."""
    size = sum(map(_check_unit, group.units))
    _check_word(group.consumer, "consumer", STREAM_BYTES_MAX, empty=True)
    if size > GROUP_BYTES_MAX:
        raise ValueError(f"a group of {size} bytes; at most {GROUP_BYTES_MAX} fit: split it")
    return size


def _check_unit(unit: Unit) -> int:
    _check_word(unit.stream, "stream", STREAM_BYTES_MAX)
    if not 0 <= unit.expected <= INT4_MAX:
        raise ValueError(f"expected version {unit.expected}: 0 (new stream) to {INT4_MAX}")
    size = len(unit.stream)
    for event in unit.events:
        _check_word(event.type, "event type", TYPE_BYTES_MAX)
        if not 0 < event.v <= INT2_MAX:
            raise ValueError(f"event {event.type} has version {event.v}: 1 to {INT2_MAX}")
        size += len(event.data) + len(event.meta) + len(event.type)
    command = unit.command
    if command is not None:
        _check_word(command.id, "command id", STREAM_BYTES_MAX)
        size += len(command.id) + len(command.payload) + len(command.outcome)
    return size


def _check_word(word: str, what: str, bytes_max: int, *, empty: bool = False) -> None:
    if not word.isascii() or not word.isprintable() or len(word) > bytes_max or not (word or empty):
        raise ValueError(f"{what} {word[:80]!r}: 1 to {bytes_max} printable ASCII characters")


def reached(group: Group, committed: int) -> int:
    """The consumer position that holds once the first `committed` units of the group are in; 0: says nothing."""
    marks = [unit.mark for unit in group.units[:committed]]
    if committed == len(group.units):
        marks.append(group.mark)
    return max(marks, default=0)
