"""What is said to `python -m services.host.slices`, and how it ends.

0   done
2   usage: a word that is not understood, positions beyond the log, a VM that it knows nothing of, a file that is there already
4   the log cannot be had
5   the log that is to take it in is not empty: nothing was changed
6   the file cannot be used: torn, changed, two logs in one, of a later release (which is said); or it cannot be anonymized
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import msgspec

from libs.past.aslog import ENDING
from libs.past.slices.select import AROUND

DONE, USAGE, AWAY, NOT_EMPTY, UNUSABLE = 0, 2, 4, 5, 6


class Moment(msgspec.Struct, frozen=True):
    """A position, or a time (microseconds); both 0: none was said."""

    position: int = 0
    at_us: int = 0


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """what: export or import. around: with so many events before and after; else first and last. names: where the old names are
    written beside the new ones; key: a file that the new ones follow from."""

    what: str
    log: str
    file: Path
    vms: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    first: Moment = Moment()
    last: Moment = Moment()
    around: Moment = Moment()
    before: int = AROUND
    after: int = AROUND
    anonymize: bool = False
    names: Path | None = None
    key: Path | None = None
    note: str = ""
    json: bool = False


def read(words: Sequence[str]) -> Asked:
    """Exits 2 where they make no sense."""
    parser = argparse.ArgumentParser(prog="asvctl log", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    verbs = parser.add_subparsers(dest="what", required=True)
    for verb in ("export", "import"):
        one = verbs.add_parser(verb)
        one.add_argument("file", type=Path)
        one.add_argument("--log", required=True)
        one.add_argument("--json", action="store_true")
    out = verbs.choices["export"]
    out.add_argument("--vm", dest="vms", action="append", default=[])
    out.add_argument("--node", dest="nodes", action="append", default=[])
    for name, field in (("from", "first"), ("to", "last"), ("around", "around")):
        out.add_argument(f"--{name}", dest=field, type=_moment, default=Moment(), metavar="POSITION|@MICROSECONDS")
    for name in ("before", "after"):
        out.add_argument(f"--{name}", type=_count, default=AROUND)
    out.add_argument("--anonymize", action="store_true")
    out.add_argument("--names", type=Path, default=None)
    out.add_argument("--key", type=Path, default=None)
    out.add_argument("--note", default="")
    found = Asked(**vars(parser.parse_args(list(words))))
    if found.what == "export":
        _check(parser, found)
    return found


def _check(parser: argparse.ArgumentParser, asked: Asked) -> None:
    none = Moment()
    if asked.around != none and (asked.first, asked.last) != (none, none):
        parser.error("one window: --around with --before and --after, or --from and --to")
    if (asked.names or asked.key) and not asked.anonymize:
        parser.error("--names and --key are for --anonymize")
    if not asked.file.name.endswith(ENDING):
        parser.error(f"the file's name ends with {ENDING}")


def _moment(text: str) -> Moment:
    return Moment(at_us=_count(text[1:])) if text.startswith("@") else Moment(position=_count(text))


def _count(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 0 on")
    return int(text)
