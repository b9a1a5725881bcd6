"""`asvctl vm guard`: whether a VM is to run again by itself, where, after which others, and how often."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from services.cli import show, task, units
from services.cli.client import path
from services.cli.session import AsJson, client, wants_json

TIMEOUT_S = 30.0


class Mode(StrEnum):
    AUTO = "auto"
    RESTART = "restart"
    IN_PLACE = "in-place"
    OFF = "off"


class Then(StrEnum):
    ELSEWHERE = "elsewhere"
    STOP = "stop"


def guard(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The VM's name.")],
    mode: Annotated[
        Mode | None,
        typer.Option(help="restart: elsewhere when its node is lost; in-place: only there; auto: as its disks allow; off."),
    ] = None,
    after: Annotated[
        list[str] | None, typer.Option(metavar="VM", help="A VM that is to run before it; may be repeated.")
    ] = None,
    after_none: Annotated[bool, typer.Option("--after-none", help="It waits for no other.")] = False,
    hangs: Annotated[bool | None, typer.Option("--hangs/--no-hangs", help="Treat hangs (two independent signs).")] = None,
    panics: Annotated[bool | None, typer.Option("--panics/--no-panics", help="Treat panics of its guest.")] = None,
    panic_wait: Annotated[
        str | None, typer.Option("--panic-wait", metavar="TIME", help="Leave a panicked guest that long for a look.")
    ] = None,
    failures: Annotated[
        int | None, typer.Option(min=0, max=100, help="So many failures of its own are answered by a start there …")
    ] = None,
    window: Annotated[str | None, typer.Option(metavar="TIME", help="… within so long.")] = None,
    then: Annotated[Then | None, typer.Option(help="And what follows then.")] = None,
    grace: Annotated[str | None, typer.Option(metavar="TIME", help="No hang is looked for that long after its start.")] = None,
    _json: AsJson = False,
) -> None:
    """Set a VM's guard, or show it where nothing is said."""
    if after and after_none:
        raise typer.BadParameter("--after and --after-none exclude each other")
    said: dict[str, Any] = {
        "mode": mode and mode.value, "after": [] if after_none else after or None, "hangs": hangs, "panics": panics,
        "panic_wait_s": _seconds(panic_wait), "failures_max": failures, "window_s": _seconds(window),
        "then": then and then.value, "grace_s": _seconds(grace),
    }  # fmt: skip
    body = {field: value for field, value in said.items() if value is not None}
    api = client()
    if body:
        task.finish(api, api.put(path("vms", name, "guard"), body), f"guard {name}", True, TIMEOUT_S)
        return
    found = api.get(path("vms", name, "guard"))
    if wants_json():
        show.as_json(found)
        return
    show.facts([("vm", name), *facts(found)])


def _seconds(text: str | None) -> int | None:
    return None if text is None else units.seconds(text)


def facts(found: dict[str, Any]) -> list[tuple[str, object]]:
    """guard, and owed where it is; as GET /v1/vms/VM/guard has them."""
    rules = found.get("guard") or {}
    return [
        ("guard", f"{rules.get('mode', 'auto')}{_stays(found)}"),
        ("after", ", ".join(rules.get("after") or ())),
        ("hangs", "treated" if rules.get("hangs", True) else "left alone"),
        ("panics", _panics(rules)),
        ("failures", failures_of(rules)),
        ("owed", owed(found.get("owed"))),
        ("let go", found.get("ended") or ""),
    ]


def _panics(rules: dict[str, Any]) -> str:
    if not rules.get("panics", True):
        return "left alone"
    return f"treated after {rules['panic_wait_s']} s" if rules.get("panic_wait_s") else "treated"


def failures_of(rules: dict[str, Any]) -> str:
    then = "started elsewhere" if rules.get("then", "elsewhere") == "elsewhere" else "left stopped"
    often = f"{rules.get('failures_max', 3)} in {rules.get('window_s', 1800)} s"
    return f"at most {often} are answered by a start there, then it is {then}"


def owed(one: dict[str, Any] | None) -> str:
    """Since when it is to run and does not, why, and what comes next."""
    if not one:
        return ""
    said = f"since {show.when(one.get('since_us'))} ({one.get('cause')})"
    if one.get("sentence"):
        said += f": {one['sentence']}"
    if one.get("remedy"):
        said += f"; {one['remedy']}"
    attempt = f", attempt {one['attempt']}" if one.get("attempt") else ""
    later = f"; tried again at {show.when(one['try_us'])} at the latest" if one.get("try_us") else ": being started"
    return f"{said}{attempt}{later}"


def brief(vm: dict[str, Any]) -> str:
    """One line of `vm show`."""
    rules = vm.get("guard")
    if rules is None:
        return ""
    after = f", after {', '.join(rules['after'])}" if rules.get("after") else ""
    return f"{rules.get('mode', 'auto')}{after}{_stays(vm)}"


def _stays(found: dict[str, Any]) -> str:
    """What its disks make of that."""
    mode = (found.get("guard") or {}).get("mode", "auto")
    return f": only where it was, once that node is back ({found['stays']})" if found.get("stays") and mode != "off" else ""
