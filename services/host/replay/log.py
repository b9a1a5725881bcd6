"""The log as the step debugger shows it."""

from __future__ import annotations

from rich.text import Text
from textual.widgets import Static

from libs.past.walking import Walk


class Log(Static):
    """A window of the events around the cursor. (Static: a list of widgets would hold one for each event.)"""

    def show(self, walk: Walk) -> None:
        height = max(self.size.height, 1)
        start = max(0, min(walk.row - height // 2, len(walk.shown) - height))
        text = Text(no_wrap=True, overflow="ellipsis")
        for index in walk.shown[start : start + height]:
            step = walk.steps.all[index]
            recorded = step.recorded
            here, marked = index == walk.cursor, recorded.position in walk.marks
            signs = f"{'>' if here else ' '}{'*' if marked else ' '}"
            said = f"{signs}{recorded.position:>7} {recorded.stream} {recorded.version} {recorded.type}\n"
            text.append(said, "reverse" if here else "bold" if marked else "")
        self.update(text)
