"""`asvctl why` and `asvctl why-not`: the recorded causes, as a tree."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from services.cli import show
from services.cli.client import path
from services.cli.session import AsJson, client, wants_json

OBJECTS = ("vm", "image", "node", "network", "pool", "fence", "backup", "wave")
KINDS = (*OBJECTS, "event", "task")
Object = Annotated[
    str, typer.Argument(metavar="KIND/NAME", help="vm/web-1, node/n1, image/tiny, backup/web-1/b1-3, event/POSITION, task/ID.")
]


def why(
    object: Object,
    last: Annotated[int, typer.Option(help="How many of the newest stories; 0: all that are told.", min=0)] = 3,
    effects: Annotated[bool, typer.Option("--effects", help="Also what came of it elsewhere, in all services.")] = False,
    _json: AsJson = False,
) -> None:
    """Why an object is as it is: who asked, what was decided on which evidence, what was seen. Of an event: all that led to it and
    that it led to; of a task: all that is recorded of it."""
    kind, name = split(object, KINDS)
    parts = name.split("/", 1) if kind == "backup" else [name]
    found = client().get(path("why", kind, *parts, effects=effects))
    if wants_json():
        show.as_json(found)
        return
    asked = int(name) if kind == "event" and name.isdigit() else 0
    told = found.get("stories") or []
    shown = told[-last:] if last else told
    before = len(told) - len(shown)
    if before or found.get("older"):
        older = f", {found['older']} older events" if found.get("older") else ""
        print(f"({before} earlier {'story' if before == 1 else 'stories'}{older})")
    for story in shown:
        print(show.clean(f"{show.when(story['at_us'])}  {story['asked_by'] or 'somebody'} (task {story['task'] or '-'})"))
        for line in tree(story["steps"], story["at_us"], asked=asked):
            print(show.clean(line))
    if not told:
        print(f"nothing is recorded of {show.clean(object)}")
    if found.get("unread"):
        show.note(f"effects behind event {found['unread']} were not looked for")


def why_not(
    object: Annotated[str, typer.Argument(metavar="vm/NAME", help="The VM.")],
    node: Annotated[str, typer.Option(metavar="NODE", help="Why is it not on this node?")] = "",
    started: Annotated[bool, typer.Option("--started", help="Why is it not started?")] = False,
    reclaimed: Annotated[bool, typer.Option("--reclaimed", help="Why is none of its memory taken back?")] = False,
    _json: AsJson = False,
) -> None:
    """Why a VM is not on a node, not started, or why nothing is taken of its memory."""
    _, name = split(object, ("vm",))
    asked = (bool(node), started, reclaimed).count(True)
    if not asked:
        raise typer.BadParameter("say what it is not: --node NODE (on that node), --started (at all) or --reclaimed (its memory)")
    if asked > 1:
        raise typer.BadParameter("one question at a time: --node NODE, --started or --reclaimed")
    found = client().get(path("why-not", "vm", name, node=node, started=started, reclaimed=reclaimed))
    if wants_json():
        show.as_json(found)
        return
    print(show.clean(found["sentence"]))
    if found.get("at_us"):
        event = f", event {found['position']}" if found.get("position") else ""
        print(show.clean(f"  recorded {show.when(found['at_us'])}{event}"))
    for line in found.get("evidence") or ():
        print(f"  {show.clean(line)}")
    if found.get("remedy"):
        print(f"  what would change it: {show.clean(found['remedy'])}")


def split(object: str, kinds: tuple[str, ...]) -> tuple[str, str]:
    kind, slash, name = object.partition("/")
    if not slash or kind not in kinds or not name:
        raise typer.BadParameter(f"{object!r} is no object; write KIND/NAME, KIND one of {', '.join(kinds)}")
    return kind, name


def tree(steps: list[dict[str, Any]], since_us: int, indent: str = "", asked: int = 0) -> list[str]:
    """Lines of a tree: each step with its evidence, and below it what it caused. since_us: when the story began; asked: the
    position of the step that is marked."""
    lines: list[str] = []
    for number, step in enumerate(steps, 1):
        last = number == len(steps)
        effects = step.get("effects") or []
        mark = "»" if step["position"] == asked else ""
        after = f"{max(0, step['at_us'] - since_us) / 1e6:+.2f} s"
        said = f"{step['stream']}: {step['sentence']}{_by(step)}"
        lines.append(f"{indent}{'└─' if last else '├─'} {mark}{step['position']}  {after}  {said}")
        below = indent + ("   " if last else "│  ")
        lines += [f"{below}{'│' if effects else ' '}    {line}" for line in _grounds(step)]
        lines += tree(effects, since_us, below, asked)
    return lines


def _grounds(step: dict[str, Any]) -> list[str]:
    """Where it comes from, if not from the step above, and what it was decided on."""
    cause = step.get("cause")
    lines = [f"because of event {cause}, which is not shown here"] if cause and not step.get("cause_told") else []
    return lines + (step.get("evidence") or [])


def _by(step: dict[str, Any]) -> str:
    """Facts say whose they are; decisions of services are known by their stream, and by their policy."""
    actor, policy = str(step.get("actor") or ""), str(step.get("policy") or "")
    said = f"  (policy {policy})" if policy and f"by the policy {policy}" not in step["sentence"] else ""
    return said + (f"  [{actor}]" if actor and not actor.startswith("service:") else "")
