"""What the documents name is there: files, folders, links, commands of asvctl with their options, targets of make, modules; and
every room of the code is in ARCHITECTURE.md. (Whether what is said of them is true, only people can tell.)"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer.main

from libs.world.befall import KINDS
from services.cli.main import GROUPS, program

ROOT = Path(__file__).parents[2]
DOCS = [*(ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md")), *sorted((ROOT / "docs").rglob("*.md"))]
CODE = ("services", "libs", "proto", "infra", "tests")
OF_ALL = {"--json", "--help", "--api", "--token", "--at"}
"""options that each command of asvctl has"""
ENDS = re.compile(r"\s--\s|[|&;#(]|…|\.\.\.|\n\s*\n")
"""where a command of asvctl ends in a line of shell, and a guest's begins"""


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@cache
def files() -> frozenset[str]:
    """All there are, and the folders of them."""
    found = [path for room in (*CODE, "docs") for path in (ROOT / room).rglob("*") if "__pycache__" not in path.parts]
    return frozenset(_name(path) for path in [*found, *ROOT.iterdir()])


def code_of(text: str) -> Iterator[str]:
    """Lines of code blocks (a line that ends in a backslash goes on) and indented ones, and what stands between backticks."""
    for block in re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        yield from block.replace("\\\n", " ").splitlines()
    prose = re.sub(r"^```\w*\n.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    yield from re.findall(r"^ {4}(\S.*)$", prose, re.MULTILINE)
    for span in re.findall(r"`([^`]+)`", prose):
        yield " ".join(span.split())


def spread(word: str) -> list[str]:
    """a{b,c} is ab and ac."""
    if (found := re.search(r"\{([^}]*)\}", word)) is None:
        return [word]
    return [one for part in found[1].split(",") for one in spread(word[: found.start()] + part + word[found.end() :])]


def is_there(word: str, beside: str = "") -> bool:
    """A path from the top, or the end of one; a decision by its number. beside: the document's folder."""
    bare = word.rstrip("/")
    if bare in files() or f"{beside}/{bare}".lstrip("/") in files():
        return True
    if re.fullmatch(r"docs/decisions/\d{4}", bare):
        return any(name.startswith(f"{bare}-") for name in files())
    return f"{bare}.py" in files() or any(name.endswith(f"/{bare}") for name in files())


@pytest.mark.parametrize("doc", DOCS, ids=_name)
def test_what_is_linked_is_there(doc: Path) -> None:
    links = [link for link in re.findall(r"\]\(([^)#\s]+)", doc.read_text()) if "://" not in link]
    assert [link for link in links if not (doc.parent / link).exists()] == []


@pytest.mark.parametrize("doc", DOCS, ids=_name)
def test_what_is_named_as_a_file_is_there(doc: Path) -> None:
    text = re.sub(r"\]\([^)]*\)", "]", doc.read_text())
    rooted = re.findall(rf"(?<![\w./$~-])(?:{'|'.join((*CODE, 'docs'))})/[\w./{{}},-]*[\w/}}]", text)
    modules = re.findall(r"(?<![\w./*:-])[\w-]+(?:/[\w-]+)*\.(?:py|sh|sql|md)\b", text)
    named = {one for word in (*rooted, *modules) for one in spread(word)}
    assert sorted(word for word in named if not is_there(word, _name(doc.parent))) == []


@cache
def asvctl() -> Any:
    return typer.main.get_command(program())


def fault(line: str) -> str:
    """Why asvctl does not take these words; "": it may. A word in capitals stands for anything."""
    command, path = asvctl(), "asvctl"
    words = ENDS.split(line, maxsplit=1)[0].split()
    while hasattr(command, "commands") and words and re.fullmatch(r"[a-z][a-z-]*", words[0]):
        word = words.pop(0)
        if word not in command.commands:
            return f"{path} has no {word}"
        command, path = command.commands[word], f"{path} {word}"
    known = {name for param in command.params for name in (*param.opts, *param.secondary_opts)} | OF_ALL
    said = [re.split(r"[=\]]", word.lstrip("["))[0] for word in words if word.lstrip("[").startswith("--")]
    return next((f"{path} has no {option}" for option in said if option not in known), "")


def of_asvctl(text: str) -> Iterator[str]:
    """With its name, or without where a group of commands and one of them begin what stands in backticks."""
    for line in code_of(text):
        if (words := line.split())[:1] and words[0] in GROUPS and re.match(r"[a-z-]+ [a-z][a-z-]*( [^─]*)?$", line):
            yield line
        for found in re.finditer(r"(?<![\w-])asvctl ((?![─-]).*?)(?=asvctl|$)", line):
            yield found[1]


@pytest.mark.parametrize("doc", DOCS, ids=_name)
def test_what_is_said_to_asvctl_it_takes(doc: Path) -> None:
    assert [said for line in of_asvctl(doc.read_text()) if (said := fault(line))] == []


def test_the_commands_are_found_and_looked_at() -> None:
    assert sum(1 for doc in DOCS for _ in of_asvctl(doc.read_text())) > 100
    assert fault("vm show web-1") == "" and fault("vm shew web-1") == "asvctl vm has no shew"
    assert fault("ha set --reserve none") == "" and fault("ha set --reserves none") == "asvctl ha set has no --reserves"
    assert fault("vm exec web-1 -- uname --all") == "", "those are the guest's own"
    assert not is_there("services/ha/fencing/attempts.py") and is_there("fencing/attempt.py")


@pytest.mark.parametrize("doc", DOCS, ids=_name)
def test_targets_and_modules_are_there(doc: Path) -> None:
    text = doc.read_text()
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    made = {word for line in code_of(text) for word in re.findall(r"(?:^|\s)make ([a-z-]+)", line)}
    assert sorted(made - targets) == []
    run = {word for line in code_of(text) for word in re.findall(r"python -m ([a-z0-9_.]+[a-z_])", line)}
    assert sorted(name for name in run if importlib.util.find_spec(name) is None) == []


def test_readme_leads_to_every_page() -> None:
    linked = set(re.findall(r"\]\((docs/[\w./-]+)\)", (ROOT / "README.md").read_text()))
    assert {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")} <= linked


def test_all_that_may_befall_a_world_is_on_its_page() -> None:
    text = (ROOT / "docs/world.md").read_text()
    table = text[text.index("| `do` |") : text.index("## What is looked at")]
    rows = [line.split("|")[1] for line in table.splitlines()[2:] if line.startswith("|")]
    assert {word for row in rows for word in re.findall(r"`(\w+)`", row)} == set(KINDS)


def test_every_room_is_in_architecture() -> None:
    """A room is a folder of modules, or of what infra and proto keep beside them."""
    table = [line for line in (ROOT / "ARCHITECTURE.md").read_text().splitlines() if line.startswith("| `")]
    named = {word.rstrip("/") for line in table for word in re.findall(r"`([\w./]+/)`", line.split("|")[1])}
    kept = [folder for room in ("infra", "proto") for folder in (ROOT / room).iterdir() if folder.is_dir()]
    packages = [init.parent for room in CODE for init in (ROOT / room).rglob("__init__.py")]
    rooms = {_name(folder) for folder in (*packages, *kept, ROOT / "tests/scenarios") if folder.name != "__pycache__"}
    assert sorted(rooms - named - {"libs", "services"}) == [], "not in the table of rooms"
    assert sorted(named - rooms - {"docs"}) == [], "no such rooms"
