"""Pages of a process in the guest, by the guest's own /proc, read through its agent. The guest is hostile: what it says is bounded
and typed, and only names a guest-physical address, which QEMU then holds against the memory that there is."""

from __future__ import annotations

import re

import msgspec

from proto.mapping import WhyNot
from proto.node import ExecResult
from services.node.drivers import GuestSilent
from services.node.drivers.memory import Untranslatable
from services.node.drivers.qemu.guest import GuestAgent
from services.node.host.pages import HUGE, PAGE, parse_entry

GUEST_S_MAX = 10.0
WORDS_MAX = 200
_NO_PROCESS = 3
_SCRIPT = """[ -d /proc/$1 ] || exit 3
dd if=/proc/$1/pagemap bs=8 skip=$2 count=512 2>/dev/null | od -An -v -t x8
echo ---
cat /proc/$1/comm
cat /proc/$1/maps"""
_FLAGS = "dd if=/proc/kpageflags bs=8 skip=$1 count=1 2>/dev/null | od -An -v -t x8"
_HUGE_FLAGS = 1 << 17 | 1 << 22
_LINE = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) (\S+) \S+ \S+ \d+\s*(.*)$")


class GuestPage(msgspec.Struct, frozen=True):
    """first to last: the mapping of the process that the address lies in, and what it is."""

    gpa: int
    page_kib: int
    first: int
    last: int
    words: str


async def find(agent: GuestAgent, pid: int, gva: int) -> GuestPage:
    """Raises Untranslatable."""
    page = gva // PAGE
    first = page // HUGE * HUGE
    said = await _run(agent, _SCRIPT, pid, first)
    if said.exit_code == _NO_PROCESS:
        raise Untranslatable(
            WhyNot.NO_PROCESS, f"the guest has no process {pid}", "run `ps` in the guest for those it has"
        )
    dumped, _, rest = said.stdout.decode("utf-8", "replace").partition("---\n")
    comm, _, maps = rest.partition("\n")
    entries = [parse_entry(word) for word in _words(dumped)]
    name = f"process {pid} ({comm[:32]})"
    where = _where(maps, gva)
    if where is None:
        raise Untranslatable(
            WhyNot.NOT_MAPPED, f"{name} has nothing at {gva:#x}", "see /proc/PID/maps in the guest for what it has"
        )
    index = page - first
    if index >= len(entries) or not entries[index].present:
        swapped = index < len(entries) and entries[index].swapped
        text = "the guest has swapped that page out" if swapped else "the process has not touched that page yet"
        raise Untranslatable(WhyNot.NOT_MAPPED, f"{name}, {where.words}: {text}", "let the process use it first")
    frame = entries[index].frame
    if frame == 0:
        text = "the guest's agent may not see where pages lie: it does not run as root there"
        raise Untranslatable(WhyNot.NEEDS_ROOT, text, "run the guest agent as root in the guest")
    begin = frame - index
    run = begin % HUGE == 0 and len(entries) == HUGE and all(e.frame == begin + i for i, e in enumerate(entries))
    huge = run and any(
        word & _HUGE_FLAGS for word in _words((await _run(agent, _FLAGS, frame)).stdout.decode("ascii", "replace"))
    )
    return msgspec.structs.replace(
        where, gpa=frame * PAGE + gva % PAGE, page_kib=2048 if huge else 4, words=f"{where.words} of {name}"
    )


async def _run(agent: GuestAgent, script: str, *numbers: int) -> ExecResult:
    argv = ("/bin/sh", "-c", script, "sh", *(str(n) for n in numbers))
    try:
        result = await agent.exec(argv, b"", GUEST_S_MAX)
    except GuestSilent as silent:
        raise Untranslatable(
            WhyNot.GUEST_SILENT,
            str(silent),
            "addresses of a process need the guest agent; without --pid it is not asked",
        ) from silent
    if result.error:
        raise Untranslatable(
            WhyNot.FAILED, f"the guest did not read its page tables: {result.error}", "a Linux guest is needed"
        )
    return result


def _words(dumped: str) -> list[int]:
    """What od printed, hexadecimal words of 64 bits."""
    return [int(word, 16) for word in dumped.split()[:HUGE] if re.fullmatch(r"[0-9a-f]{16}", word)]


def _where(maps: str, gva: int) -> GuestPage | None:
    for line in maps.splitlines():
        match = _LINE.match(line)
        if match is not None and int(match[1], 16) <= gva < int(match[2], 16):
            words = f"{match[3]} {match[4] or 'anonymous'}"[:WORDS_MAX]
            return GuestPage(0, 0, int(match[1], 16), int(match[2], 16) - 1, words)
    return None
