"""Tasks: what became of a request, told by events only (`stories` reads them). Pure.

A task's id is the correlation id of the request (or of the fault) that began its story. Its end comes from the object
it works on, not from the correlation of the last event, so that an agent's report ends it whoever passed it on.
`create` with start is told apart by the command's id: the command with the task's own id is the one that ends it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import msgspec

STEPS_MAX = 64
TaskState = Literal["running", "done", "failed"]


class Step(msgspec.Struct, frozen=True):
    """at_us: the log's time of the event that the step was read from."""

    at_us: int
    text: str


class Task(msgspec.Struct):
    """step: the latest of steps, for a progress line. sentence: how it ended. started, ended: microseconds; 0: not yet.
    awaits: the id of a command that must be decided before the task can go on; empty where none is."""

    id: str
    kind: str
    object: str
    project: str
    state: TaskState = "running"
    step: str = ""
    steps: list[Step] = []
    sentence: str = ""
    started: int = 0
    ended: int = 0
    actor: str = ""
    awaits: str = ""


@dataclass(slots=True)
class Tasks:
    """The latest `tasks_max` tasks; ended ones are forgotten first. open: by what it does to what, the id of the task that goes on.
    with_disks: VMs whose disks are there."""

    tasks_max: int = 5000
    all: dict[str, Task] = field(default_factory=dict)
    open: dict[str, str] = field(default_factory=dict)
    with_disks: set[str] = field(default_factory=set)

    def unchanged(self, id: str, kind: str, object: str, project: str, at_us: int, sentence: str) -> Task:
        """Note a command that was accepted and had nothing to change; no event tells of it, so a restart forgets it."""
        task = self._new(Task(id=id, kind=kind, object=object, project=project, started=at_us))
        self.finish(task, "done", sentence, at_us)
        return task

    def finish(self, task: Task, state: TaskState, sentence: str, at_us: int) -> None:
        step(task, sentence, at_us)
        task.state, task.sentence, task.ended, task.awaits = state, sentence, at_us, ""

    def begin(self, key: str, task: Task) -> Task:
        """The task of that id goes on, or this one begins; it is what `key` stands for from now on."""
        known = self.all.get(task.id)
        if known is not None and known.object != task.object:  # one story, several objects: each has its own end
            task.id = f"{task.id}.{task.object}"
            known = self.all.get(task.id)
        task = known or self._new(task)
        task.state, task.sentence, task.ended, task.awaits = "running", "", 0, ""
        self.open[key] = task.id
        return task

    def opened(self, key: str) -> Task | None:
        return self.all.get(self.open.get(key, ""))

    def end(self, key: str, state: TaskState, sentence: str, at_us: int) -> None:
        """End the open task of that key, if there is one."""
        task = self.all.get(self.open.pop(key, ""))
        if task is not None and task.state == "running":
            self.finish(task, state, sentence, at_us)

    def _new(self, task: Task) -> Task:
        self.all[task.id] = task
        while len(self.all) > self.tasks_max:
            ended = (t.id for t in self.all.values() if t.state != "running" and t is not task)
            del self.all[next(ended, next(iter(self.all)))]
        return task


def step(task: Task, text: str, at_us: int) -> None:
    if text != task.step:
        task.step = text
        task.steps = [*task.steps[1 - STEPS_MAX :], Step(at_us, text)]
