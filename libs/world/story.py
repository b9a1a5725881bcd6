"""A story: what a world is like, what befalls it when, and what must come of it. Data: made by hand, from a seed, or by the
shrinker; written to and read from `story.toml` (docs/world.md). `play.py` plays it.

    title = "A node loses power"
    seed = 1

    [[step]]
    at = 1.0                  # seconds from the beginning of the story
    do = "power"              # what befalls (faults.KINDS)
    who = "n1"
    for = 60.0                # seconds until it is undone; 0: never

    [expect]
    told = ["NodeLost n1", "VmRecovered vm-0"]
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any

import msgspec

Seconds = Annotated[float, msgspec.Meta(ge=0, le=86_400)]


class BadStory(ValueError):
    """What is wrong with it, and what would be right."""


class Step(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True, rename={"for_s": "for"}):
    """at: seconds from the beginning or, with `on`, from when that event (its wire name) is first committed; on_who: of that node
    or VM only. who: whom it befalls; `@n1` is the first VM by name that ran on n1 in the beginning, `@n1.2` the second. more:
    what its kind needs besides."""

    do: str
    at: Seconds = 0.0
    who: str = ""
    for_s: Seconds = 0.0
    on: str = ""
    on_who: str = ""
    more: dict[str, int | float | str | bool] = {}


class Sky(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """The network all the while: chances per message; the log: how long a commit takes at most, milliseconds."""

    lost: float = 0.0
    late: float = 0.0
    late_s: float = 8.0
    twice: float = 0.0
    commit_ms: float = 3.0


class Turn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Chance begins anew here: what one schedule has apart from another that began as it did."""

    at: Seconds
    seed: int


class Expect(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """told: lines of the told story, or the beginnings of such, in this order for each subject; never: none begins so.
    within_s: the last of them has come by then (0: whenever)."""

    told: tuple[str, ...] = ()
    never: tuple[str, ...] = ()
    within_s: Seconds = 0.0


class Story(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True, rename={"steps": "step", "turns": "turn"}):
    """pools: "shared" (one that all reach), "two" (that all reach: `sim`, `sim-second`; of VMs of odd numbers the disk is in the
    second), "apart" (each node its own). locking: whether the storage refuses a second writer (ring 3); without it orders,
    generations and leases alone must do. grantors: processes of ha that may grant; one has the lock. fences: whether each node has
    a fence device. vitals: whether guests' signs of life are looked at. peace_s: how long after the last step, with all faults
    undone, things may take to settle. ha: of HaSettings."""

    seed: int = 0
    title: str = ""
    nodes: Annotated[int, msgspec.Meta(ge=1, le=64)] = 3
    vms: Annotated[int, msgspec.Meta(ge=0, le=512)] = 5
    seconds: Seconds = 20.0
    peace_s: Seconds = 60.0
    pools: str = "shared"
    locking: bool = True
    node_mib: Annotated[int, msgspec.Meta(ge=1024, le=1 << 24)] = 16_384
    grantors: Annotated[int, msgspec.Meta(ge=0, le=3)] = 1
    fences: bool = False
    vitals: bool = False
    ha: dict[str, int | float | str | bool] = {}
    sky: Sky = Sky()
    steps: tuple[Step, ...] = ()
    turns: tuple[Turn, ...] = ()
    expect: Expect = Expect()


def parsed(text: str, where: str = "story.toml") -> Story:
    """Raises BadStory."""
    try:
        story = msgspec.convert(tomllib.loads(text), Story, strict=False)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as bad:
        raise BadStory(f"{where}: {bad}") from bad
    if story.pools not in ("shared", "two", "apart"):
        raise BadStory(f'{where}: pools is {story.pools!r}; it is one of "shared", "two", "apart"')
    if story.fences and not story.grantors:
        raise BadStory(f"{where}: fences = true, and no process of ha (grantors = 0) that would ask devices")
    return story


def read(folder: Path) -> Story:
    """From its `story.toml`. Raises BadStory, OSError."""
    return parsed((folder / "story.toml").read_text(), str(folder / "story.toml"))


def written(story: Story) -> str:
    """The same as TOML; `parsed(written(s)) == s`."""
    body: dict[str, Any] = msgspec.to_builtins(story)
    tables: dict[str, Any] = {name: body.pop(name) for name in ("ha", "sky", "expect") if name in body}
    lists: dict[str, Any] = {name: body.pop(name) for name in ("step", "turn") if name in body}
    lines = [f"{name} = {_value(value)}" for name, value in body.items()]
    for name, table in tables.items():
        lines += ["", f"[{name}]", *(f"{key} = {_value(value)}" for key, value in table.items())]
    for name, items in lists.items():
        for item in items:
            lines += ["", f"[[{name}]]", *(f"{key} = {_value(value)}" for key, value in item.items())]
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return msgspec.json.encode(value).decode()
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_value(inner)}" for key, inner in value.items()) + " }"
    if isinstance(value, (list, tuple)):
        if len(value) < 2:
            return "[" + "".join(_value(inner) for inner in value) + "]"
        return "[\n" + "".join(f"    {_value(inner)},\n" for inner in value) + "]"
    return repr(value)
