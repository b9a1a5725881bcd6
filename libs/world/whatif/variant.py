"""What is to be done, as it is written: `--kill node/n2 --add 20xweb --policy FILE --remove-memory n1=64GiB`."""

from __future__ import annotations

import argparse
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from libs.common.messages import DNS_LABEL
from libs.world.fork.slices import CannotFork
from libs.world.whatif.policy import Setting, settings

ADDED_MAX = 500
USAGE = "write --kill node/NAME, --add NUMBERxVM, --policy FILE or --remove-memory NODE=SIZE"
KILLED = ("node", "vm")
SIZES = {"": 1, "m": 1, "mib": 1, "g": 1024, "gib": 1024, "t": 1024 * 1024, "tib": 1024 * 1024}


@dataclass(frozen=True, slots=True)
class Variant:
    """kills: (kind, name). adds: (how many, like which VM). losses: (node, MiB). words: as it was written."""

    words: str = ""
    kills: tuple[tuple[str, str], ...] = ()
    adds: tuple[tuple[int, str], ...] = ()
    policy: tuple[Setting, ...] = ()
    losses: tuple[tuple[str, int], ...] = ()


class Words(argparse.ArgumentParser):
    """Complains by CannotFork."""

    def error(self, message: str) -> NoReturn:
        raise CannotFork(f"{message}: {USAGE}")


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--kill", action="append", default=[], metavar="node/NAME|vm/NAME")
    parser.add_argument("--add", action="append", default=[], metavar="NUMBERxVM")
    parser.add_argument("--policy", action="append", default=[], metavar="FILE")
    parser.add_argument("--remove-memory", action="append", default=[], metavar="NODE=SIZE")


def parsed(words: str) -> Variant:
    """Of `--compare`. Raises CannotFork."""
    parser = Words(add_help=False)
    options(parser)
    try:
        return variant(parser.parse_args(shlex.split(words)))
    except ValueError as bad:
        raise CannotFork(f"`{words}` cannot be read: {bad}") from bad


def variant(given: argparse.Namespace) -> Variant:
    """Raises CannotFork."""
    written = [("--kill", given.kill), ("--add", given.add), ("--policy", given.policy), ("--remove-memory", given.remove_memory)]
    return Variant(
        " ".join(f"{option} {value}" for option, values in written for value in values),
        tuple(map(_kill, given.kill)),
        tuple(map(_add, given.add)),
        tuple(setting for file in given.policy for setting in settings(_text(file), file)),
        tuple(map(_loss, given.remove_memory)),
    )


def _kill(word: str) -> tuple[str, str]:
    kind, _, name = word.partition("/")
    if kind not in KILLED or not re.fullmatch(DNS_LABEL, name):
        raise CannotFork(f"`{word}` is nothing that can be killed: write node/NAME or vm/NAME")
    return kind, name


def _add(word: str) -> tuple[int, str]:
    number, _, name = word.partition("x")
    if not number.isdecimal() or not 1 <= int(number) <= ADDED_MAX or not re.fullmatch(DNS_LABEL, name):
        raise CannotFork(f"`{word}` says not what is added: write NUMBERxVM, as 20xweb, with 1 to {ADDED_MAX} like an existing VM")
    return int(number), name


def _loss(word: str) -> tuple[str, int]:
    node, _, size = word.partition("=")
    found = re.fullmatch(r"(\d+) ?([a-zA-Z]*)", size)
    if not re.fullmatch(DNS_LABEL, node) or found is None or found[2].lower() not in SIZES or int(found[1]) == 0:
        raise CannotFork(f"`{word}` says not what memory goes: write NODE=SIZE, as n1=64GiB")
    return node, int(found[1]) * SIZES[found[2].lower()]


def _text(file: str) -> str:
    try:
        return Path(file).read_text()
    except (OSError, UnicodeDecodeError) as bad:
        raise CannotFork(f"the policy {file} cannot be read: {bad}") from bad
