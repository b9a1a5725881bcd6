"""What is said to `python -m services.host.replay`, and how it ends.

0   today's code decides what was recorded; with --condition: it held throughout
1   it does not: the first difference is told; with --condition: it broke, and where
2   usage: a word that is not understood, positions beyond the log
4   the log cannot be had
6   this release cannot replay this log: a gap, two logs in one, an event or a command that it cannot read
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import msgspec

from proto.services import SERVICES

PARTS_MAX = 8
SAME, DIFFERS, USAGE, AWAY, UNREADABLE = 0, 1, 2, 4, 6


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """first, last: positions, 0 where none is said. parts: processes, 0: as many as it is worth.
    good, bad: revisions between which the code is bisected."""

    log: str
    service: str
    first: int = 0
    last: int = 0
    parts: int = 0
    json: bool = False
    step: bool = False
    bisect: bool = False
    condition: str = ""
    monotonic: bool = False
    good: str = ""
    bad: str = ""
    repository: str = ""


def read(words: Sequence[str]) -> Wanted:
    """Exits 2 where they make no sense."""
    parser = argparse.ArgumentParser(prog="asvctl replay", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--log", required=True, help="where the log is: postgresql://… or a file")
    parser.add_argument("--service", default="", help=f"{'|'.join(SERVICES)}; all, if nothing is said")
    parser.add_argument("--from", dest="first", type=int, default=0, help="the first position to be decided again")
    parser.add_argument("--to", dest="last", type=int, default=0)
    parser.add_argument("--parts", type=int, default=0, choices=range(PARTS_MAX + 1), metavar="N", help="processes; 0: by itself")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--step", action="store_true", help="walk event by event")
    parser.add_argument("--bisect", action="store_true")
    parser.add_argument("--condition", default="", help="as `vm-web-1.version < 9`: the first event, or revision, that broke it")
    parser.add_argument("--monotonic", action="store_true", help="once broken it stays so: a few looks will do")
    parser.add_argument("--good", default="", metavar="REVISION", help="code that decides as was recorded, or keeps the condition")
    parser.add_argument("--bad", default="HEAD", metavar="REVISION")
    parser.add_argument("--repository", default="", metavar="FOLDER", help="where the revisions are; here, if nothing is said")
    found = Wanted(**vars(parser.parse_args(list(words))))
    if found.service and found.service not in SERVICES:
        parser.error(f"there is no service `{found.service}`: {', '.join(SERVICES)}")
    if found.step and (found.json or found.bisect):
        parser.error("--step is looked at by itself: without --json and --bisect")
    if found.bisect and not (found.condition or found.good):
        parser.error("--bisect looks for an event (say --condition) or for a revision of the code (say --good)")
    if found.good and not found.bisect:
        parser.error("a --good revision is one end of those that are looked through: say --bisect")
    if found.condition and not found.bisect:
        parser.error("a --condition is for --bisect: it finds the event at which it broke")
    if found.first < 0 or found.last < 0:
        parser.error("positions are numbers from 1 on")
    if found.good and not (found.service or found.condition):
        parser.error(f"say whose decisions: --service {'|'.join(SERVICES)}")
    return found
