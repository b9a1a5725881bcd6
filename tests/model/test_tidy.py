"""House rules that no linter knows: sizes of files and functions, and words that do not belong in a checkout."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CODE = ("services", "libs", "proto")
ROOMS = (*CODE, "tests", "infra", "docs")
TEXT = {".py", ".md", ".sql", ".toml", ".yml", ".yaml", ".json", ".conf", ".sh", ".txt", ".cfg", ".lock", ""}

FILE_LINES_MAX = 400  # aim for 300; what is longer has two purposes
FUNCTION_LINES_MAX = 60  # aim for 40
FILE_BYTES_MAX = 2_000_000  # larger ones are not text

FORBIDDEN = {
    "a path of one machine": re.compile(r"(?<![\w.~$}-])/(?:work|root)/|(?<![\w.~$}-])/home/[a-z]"),
    "the host of a package registry": re.compile(
        r"\b(?:pypi|pythonhosted|npmjs|ghcr|quay|gcr|docker(?!\.io\", \"iptables))\.(?:org|io|com)\b"
    ),  # Debian's package of the docker engine has the name of a host; it stands in one list of packages
    "a TODO without a name behind it": re.compile(r"\b(?:TODO|FIXME|XXX)\b(?!\([\w-]+\))"),
}


def _files(rooms: tuple[str, ...], suffixes: set[str]) -> Iterator[Path]:
    for room in rooms:
        for path in sorted((ROOT / room).rglob("*")):
            hidden = any(part.startswith(".") or part == "__pycache__" for part in path.relative_to(ROOT).parts)
            if path.is_file() and path.suffix in suffixes and not hidden:
                yield path


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", list(_files(CODE, {".py"})), ids=_name)
def test_files_and_functions_have_one_purpose(path: Path) -> None:
    source = path.read_text()
    lines = source.count("\n")
    assert lines <= FILE_LINES_MAX, f"{lines} lines; at most {FILE_LINES_MAX}: split it by purpose"
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= FUNCTION_LINES_MAX, f"{node.name}: {length} lines; at most {FUNCTION_LINES_MAX}"


@pytest.mark.parametrize("path", list(_files(CODE, {".py"})), ids=_name)
def test_a_module_says_what_it_is_for(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert not tree.body or ast.get_docstring(tree), "no docstring at its head"


def test_no_words_that_do_not_belong() -> None:
    found = []
    top = [p for p in sorted(ROOT.iterdir()) if p.is_file() and p.suffix in TEXT and not p.name.startswith(".")]
    for path in [*_files(ROOMS, TEXT), *top]:
        if path == Path(__file__) or path.stat().st_size > FILE_BYTES_MAX:
            continue
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue  # not text after all
        for what, pattern in FORBIDDEN.items():
            for match in pattern.finditer(text):
                line = text.count("\n", 0, match.start()) + 1
                found.append(f"{_name(path)}:{line}: {what}: {match[0]!r}")
    assert not found, "\n" + "\n".join(found)


def test_released_versions_are_listed_by_name() -> None:
    lines = (ROOT / "proto" / "RELEASED").read_text().splitlines()
    assert all(line.startswith("#") or re.fullmatch(r"[a-z_]+\.v[1-9][0-9]*", line) for line in lines)


TAKES_AWAY = re.compile(r"\bdrop\s+(?!constraint\b)\w+|\balter\b[^;]*?\btype\b|\brename\b", re.IGNORECASE)


def test_migrations_expand_first_and_contract_later() -> None:
    """What an older release still reads is taken away only by a file that says so in its name."""
    found = []
    for path in sorted((ROOT / "infra" / "sql").glob("*.sql")):
        text = re.sub(r"--[^\n]*", "", path.read_text())
        if not path.stem.endswith("_contract") and (taken := TAKES_AWAY.search(text)):
            found.append(f"{path.name}: {taken[0]!r}; expand here, and contract in a later file named …_contract.sql")
    assert not found, "\n" + "\n".join(found)
