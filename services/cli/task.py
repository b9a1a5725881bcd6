"""`asvctl task`: what became of a request. Also the waiting that `--wait` does everywhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated, Any

import typer

from services.cli import show
from services.cli.client import Client, path
from services.cli.failure import NOT_FOUND, REFUSED, UNREACHABLE, Failure
from services.cli.session import AsJson, TimeoutS, client, wants_json

app = typer.Typer(help="What became of requests.", no_args_is_help=True)

POLL_S = 0.2
UNSEEN_S_MAX = 5.0
"""how long a task that was just accepted may be unknown to the gateway's views"""

TaskId = Annotated[str, typer.Argument(metavar="TASK", help="The id that a request was answered with.")]


def wait(
    api: Client, id: str, timeout_s: float, what: str, more: Callable[[], str] = lambda: ""
) -> dict[str, Any]:
    """The task once it has ended well. Raises Failure: refused with its sentence, or unreachable when the time is over.
    more: what else there is to say of the progress."""
    progress = show.Progress(what)
    began = time.monotonic()
    try:
        while True:
            task = _look(api, id, time.monotonic() - began)
            if task["state"] == "done":
                return task
            if task["state"] == "failed":
                raise Failure(
                    REFUSED, task.get("sentence") or f"{what} failed", "", {"task": id, "reason": "TASK_FAILED"}
                )
            progress.step((task.get("step") or "accepted") + more())
            if time.monotonic() - began > timeout_s:
                raise Failure(
                    UNREACHABLE,
                    f"{what}: not over after {timeout_s:g} s; its last step: {task.get('step') or 'accepted'}",
                    f"it goes on without you; see `asvctl task show {id}`",
                )
            time.sleep(POLL_S)
    finally:
        progress.end()


def _look(api: Client, id: str, waited_s: float) -> dict[str, Any]:
    try:
        found: dict[str, Any] = api.get(path("tasks", id))
    except Failure as failure:
        if failure.code != NOT_FOUND or waited_s > UNSEEN_S_MAX:
            raise
        return {"id": id, "state": "running"}
    return found


def finish(
    api: Client, accepted: dict[str, Any], what: str, waiting: bool, timeout_s: float, more: Callable[[], str] = lambda: ""
) -> None:
    """Ends a changing command: prints what was accepted, or waits and prints how the task ended."""
    id = str(accepted.get("task", ""))
    if not waiting or not id:
        if wants_json():
            show.as_json(accepted)
        else:
            print(f"{what}: accepted" + (f" (task {id})" if id else ""))
        return
    task = wait(api, id, timeout_s, what, more)
    if wants_json():
        show.as_json(task)
    else:
        print(show.clean(task.get("sentence") or f"{what}: done"))


@app.command("ls")
def ls(_json: AsJson = False) -> None:
    """List the latest tasks."""
    found = client().items(path("tasks"))
    if wants_json():
        show.as_json(found)
        return
    rows = [
        (t.get("id"), t.get("kind"), t.get("object"), t.get("state"), show.when(t.get("started")), _last(t))
        for t in found
    ]
    show.table(("ID", "KIND", "OBJECT", "STATE", "STARTED", "LAST"), rows, "no tasks yet")


def _last(task: dict[str, Any]) -> str:
    return str(task.get("sentence") or task.get("step") or "")


@app.command("show")
def show_(id: TaskId, _json: AsJson = False) -> None:
    """Show one task with all its steps."""
    _print(client().get(path("tasks", id)))


@app.command("wait")
def wait_(id: TaskId, timeout_s: TimeoutS = 300.0, _json: AsJson = False) -> None:
    """Wait for the end of a task; the exit code says how it ended."""
    _print(wait(client(), id, timeout_s, f"task {id}"))


def _print(task: dict[str, Any]) -> None:
    if wants_json():
        show.as_json(task)
        return
    show.facts(
        [
            ("id", task.get("id")),
            ("what", f"{task.get('kind', '')} {task.get('object', '')}"),
            ("state", task.get("state")),
            ("started", show.when(task.get("started"))),
            ("ended", show.when(task.get("ended")) if task.get("ended") else ""),
            ("result", task.get("sentence")),
        ]
    )
    steps = task.get("steps") or []
    for step in steps if isinstance(steps, list) else []:
        text, at_us = (step.get("text"), step.get("at_us")) if isinstance(step, dict) else (step, None)
        print(f"  {show.when(at_us)}  {show.clean(text)}")
